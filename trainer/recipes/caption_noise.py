"""What share of real recordings is taken for steady noise, by the samples of their windows."""

from __future__ import annotations

from collections.abc import Sequence

from engine.audio import naming, open_clip
from engine.eventless import looked_at
from engine.windows import cut
from trainer.data import Row, hold_out, training_rows
from trainer.recipes.captions import Work


def taken_for_noise(work: Work) -> str:
    """Of the train clips, and of those held out among them: the windows and clips called noise; and which clips."""
    rows = [row for row in work.rows if row.split == "train"]
    held = {row.path for row in hold_out(training_rows(rows))[1]}
    space = work.encoders.space
    noisy: list[tuple[Row, int, int]] = []
    for row in rows:
        with naming(row.path):
            windows = looked_at(cut(open_clip(row.path, space.sample_rate_hz).blocks, space), space.sample_rate_hz)
            kinds = [window.eventless for window in windows]
        noisy.append((row, kinds.count("noise"), len(kinds) - kinds.count("silent")))
    lines = [_line("train", noisy), _line("held out", [one for one in noisy if one[0].path in held])]
    lines += [f"{count} of {windows}  {row.text or row.label}" for row, count, windows in noisy if count]
    return "\n".join(lines)


def _line(name: str, noisy: Sequence[tuple[Row, int, int]]) -> str:
    windows, count = sum(one[2] for one in noisy), sum(one[1] for one in noisy)
    some, whole = sum(n > 0 for _, n, _ in noisy), sum(0 < n == of for _, n, of in noisy)
    return f"{name}: {count} of {windows} windows; {some} of {len(noisy)} clips have one, {whole} have no other"
