# syntax=docker/dockerfile:1
# earshot in a container; the model comes with the package, PyTorch is no part of it.
#
#   docker build --target cpu --tag earshot:cpu .
#   docker build --target cuda --tag earshot:cuda .          some GB larger: CUDA and cuDNN; needs the NVIDIA container runtime
#   docker run --rm -v earshot:/data -v ~/Sounds:/sounds:ro earshot:cpu index /sounds
#
# The order is by how often a layer changes: libraries first, our own code last.

FROM python:3.11-slim-bookworm AS python
ENV PATH=/opt/earshot/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

FROM python AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python AS libraries
COPY pyproject.toml /src/
RUN python -m venv /opt/earshot \
 && python -c "import tomllib; print(*tomllib.load(open('/src/pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > /src/requirements.txt \
 && pip install --requirement /src/requirements.txt

FROM libraries AS libraries-cuda
RUN python -c "import tomllib; print(*tomllib.load(open('/src/pyproject.toml', 'rb'))['project']['optional-dependencies']['cuda'], sep='\n')" \
    > /src/cuda.txt \
 && pip install --requirement /src/cuda.txt

# What both targets share: nobody but `earshot` (uid 1000), and one place to write to. It is a command, not a service, so
# there is nothing whose health could be asked for.
FROM python AS runtime
RUN useradd --uid 1000 --no-create-home --home-dir /data earshot \
 && install --directory --owner=earshot --group=earshot /data
ENV HOME=/data XDG_DATA_HOME=/data
VOLUME /data
WORKDIR /data
USER 1000
ENTRYPOINT ["earshot"]
CMD ["--help"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=libraries-cuda /opt/earshot /opt/earshot
USER 0
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
USER 1000

# The last one, so that it is what `docker build .` makes.
FROM runtime AS cpu
COPY --from=libraries /opt/earshot /opt/earshot
USER 0
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
USER 1000
