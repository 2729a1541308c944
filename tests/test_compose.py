"""The compose file and the Dockerfile, as far as they can be tried without a Docker engine.

The compose file against the specification; its health checks by the shell against a server of our own; every target,
stage, path, extra and setting that either file names against what is there.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from earshot.commands import app
from engine.memory.server_options import ServerOptions

ROOT = Path(__file__).parents[1]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = [name for name in SERVICES if name.startswith("qdrant")]
NODES = [name for name in SERVERS if name != "qdrant"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
#: Stage -> what it is built on, in order.
STAGES = {stage: base for base, stage in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_it_is_valid_against_the_compose_specification() -> None:
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, ROOT / "docker-compose.yml"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_compose_file_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "wrong.yml").write_text(COMPOSE_TEXT.replace("restart:", "restrat:"))
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, tmp_path / "wrong.yml"], capture_output=True, text=True)
    assert checked.returncode == 1
    assert "restrat" in checked.stdout


@contextmanager
def server(status: int, paths: list[str]) -> Iterator[int]:
    """A server that answers everything with ``status`` and notes what it was asked for; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield http.server_address[1]
        http.shutdown()
        thread.join()


def health(service: str, port: int) -> int:
    """The exit status of a service's health check, asking this port instead of Qdrant's."""
    kind, *command = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD"  # not CMD-SHELL: /bin/sh of the image has no /dev/tcp
    script = command[-1].replace("$$", "$")
    assert "/6333" in script
    command[-1] = script.replace("/6333", f"/{port}")
    return subprocess.run(command, capture_output=True, timeout=30).returncode


@pytest.mark.parametrize("service", SERVERS)
def test_a_health_check_tells_a_server_that_is_ready_from_others(service: str) -> None:
    paths: list[str] = []
    with server(200, paths) as port:
        assert health(service, port) == 0
    with server(503, paths) as other:
        assert health(service, other) != 0
    assert health(service, port) != 0, "nobody listens there any more"
    assert paths == ["/readyz" if service == "qdrant" else "/livez"] * 2


@pytest.mark.parametrize("service", SERVERS)
def test_servers_are_pinned_keyed_kept_and_closed_to_others(service: str) -> None:
    found = SERVICES[service]
    assert re.fullmatch(r"qdrant/qdrant:v\d+\.\d+\.\d+", found["image"])
    assert found["environment"]["QDRANT__SERVICE__API_KEY"].startswith("${EARSHOT_QDRANT_API_KEY:?")
    assert all(port.startswith("127.0.0.1:") for port in found["ports"])
    [volume] = found["volumes"]
    assert volume == f"{service}:/qdrant/storage", "each has a volume of its own"
    assert service in COMPOSE["volumes"]


def test_no_port_is_taken_twice() -> None:
    ports = [port.split(":")[1] for service in SERVERS for port in SERVICES[service]["ports"]]
    assert len(ports) == len(set(ports)) == 2 * len(SERVERS)


def test_three_nodes_find_each_other() -> None:
    assert len(NODES) == 3
    for node in NODES:
        found = SERVICES[node]
        assert found["profiles"] == ["cluster"]
        assert found["environment"]["QDRANT__CLUSTER__ENABLED"] == "true"
        arguments = dict(zip(found["command"][1::2], found["command"][2::2], strict=True))
        port = found["environment"]["QDRANT__CLUSTER__P2P__PORT"]
        assert arguments.pop("--uri") == f"http://{node}:{port}"
        expected = {} if node == NODES[0] else {"--bootstrap": f"http://{NODES[0]}:{port}"}
        assert arguments == expected
        assert list(found.get("depends_on", {})) == ([] if node == NODES[0] else NODES[:1])


def test_a_profile_is_one_node_or_three() -> None:
    """What has no profile would be started with either."""
    started = {
        profile: [name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])]
        for profile in ("single", "cluster")
    }
    assert started == {"single": ["qdrant"], "cluster": NODES}
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert "COMPOSE_PROFILES=single" in guide
    assert "--profile cluster" in guide


def test_the_server_is_one_that_the_client_can_talk_to() -> None:
    """The client allows one minor version between them."""
    from importlib.metadata import version

    client = version("qdrant-client").split(".")
    image = SERVICES["qdrant"]["image"].partition(":v")[2].split(".")
    assert client[0] == image[0]
    assert abs(int(client[1]) - int(image[1])) <= 1


def test_images_are_built_from_targets_that_exist() -> None:
    assert {SERVICES[name]["build"]["target"] for name in ("earshot", "earshot-cuda")} == {"cpu", "cuda"}
    for name in ("earshot", "earshot-cuda"):
        service = SERVICES[name]
        assert service["build"]["target"] in STAGES
        assert service["profiles"] == ["earshot"]
        assert service["volumes"][0]["source"] in COMPOSE["volumes"]


class Asked(dict[str, str]):
    """An environment that notes which settings are read."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return default


def test_every_setting_of_ours_is_one_that_is_read() -> None:
    asked = Asked()
    ServerOptions.from_environment(asked)
    options = {
        str(option.envvar)
        for command in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
        for option in command.params
    }
    named = set(re.findall(r"EARSHOT_[A-Z_]+", COMPOSE_TEXT + DOCKERFILE))
    assert named >= asked.names, "every setting of the server can be handed to a container"
    assert named - asked.names - options == {"EARSHOT_SOUNDS"}, "of which only the compose file knows"


def test_stages_are_built_on_stages_or_a_pinned_image() -> None:
    assert set(STAGES) >= {"cpu", "cuda"}
    assert list(STAGES)[-1] == "cpu", "what `docker build .` makes"
    seen: list[str] = []
    for stage, base in STAGES.items():
        assert base in seen or re.fullmatch(r"python:\d\.\d+-slim-\w+", base)
        seen.append(stage)
    for stage in re.findall(r"(?:--from=|,from=)([a-z-]+)", DOCKERFILE):
        assert stage in seen
    assert "torch" not in DOCKERFILE.replace("PyTorch is no part", "")


def test_python_in_the_image_is_one_that_earshot_runs_on() -> None:
    [image] = {base for base in STAGES.values() if base not in STAGES}
    version = image.partition(":")[2].partition("-")[0]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_image_runs_earshot_and_not_as_root(target: str) -> None:
    runs = {"cpu": "FROM runtime AS cpu", "cuda": "FROM runtime AS cuda"}[target]
    body = DOCKERFILE.partition(runs)[2].partition("\nFROM")[0]
    assert re.findall(r"^USER (\S+)$", body, re.MULTILINE)[-1] == "1000", "by number, so that Kubernetes can tell"
    runtime = DOCKERFILE.partition("AS runtime")[2].partition("\nFROM")[0]
    assert '\nENTRYPOINT ["earshot"]\n' in runtime
    assert "earshot" in PROJECT["scripts"]


def test_the_libraries_in_the_image_are_those_of_the_project() -> None:
    """The lines of Python that write the lists of requirements, run here."""
    scripts = re.findall(r'python -c "(.+?)"\s+>', DOCKERFILE)
    lists = [PROJECT["dependencies"], PROJECT["optional-dependencies"]["cuda"]]
    for script, expected in zip(scripts, lists, strict=True):
        script = script.replace("/src/pyproject.toml", str(ROOT / "pyproject.toml"))
        printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        assert printed.splitlines() == expected


def test_what_is_built_is_in_the_context_and_nothing_else() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    needed = ["pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    needed += [path.name for path in ROOT.iterdir() if any(fnmatch.fnmatch(path.name, glob) for glob in packages)]
    assert sorted(kept) == sorted(name for name in needed if not name.endswith(".egg-info"))
