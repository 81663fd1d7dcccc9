"""Whether a run is healthy, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Literal, NamedTuple

import numpy as np

from maws_composer.reporting.curves import evaluation_keys, outliers, readable, say_processes, throughput
from maws_composer.reporting.numbers import brief, count, duration, percent
from maws_composer.reporting.run_data import RunData

Mark = Literal["good", "look", "bad"]

_SILENCE = 300.0  # seconds; a run that lives writes its status every half a minute
_MUCH_WAITING = 0.05  # of a step, for data
_MUCH_LOST = 0.05  # of all steps
_MANY_SKIPPED = 0.001  # of all steps
_WORSE = 0.02  # of the best evaluation


class Finding(NamedTuple):
    """One thing that was looked at: `bad` needs somebody, `look` is worth a look."""

    mark: Mark
    what: str
    says: str


def judge(run: RunData, now: datetime) -> list[Finding]:
    """What there is to say of a run; what is not known is left out.

    Args:
        run: the run.
        now: the moment at which it is judged, with a time zone.
    """
    findings = [
        _state(run, now), _progress(run), _loss(run), *_evaluations(run), _spikes(run), _replaced(run),
        _interruptions(run), _input_wait(run), _mfu(run),
    ]  # fmt: skip
    return [finding for finding in findings if finding is not None]


def verdict(findings: Sequence[Finding]) -> Finding:
    """All of them in one."""
    marks: list[tuple[Mark, str]] = [("bad", "Needs somebody"), ("look", "Worth a look")]
    for mark, title in marks:
        whats = [finding.what for finding in findings if finding.mark == mark]
        if whats:
            return Finding(mark, title, ", ".join(whats))
    return Finding("good", "Healthy", "nothing stands out") if findings else Finding("look", "No steps yet", "")


def _state(run: RunData, now: datetime) -> Finding | None:
    status, what = run.status, "state"
    spent = f"{status.get('gpu_hours') or 0.0:,.2f} GPU-hours so far"
    match status.get("state"):
        case "finished":
            return Finding("good", what, f"finished; {status.get('gpu_hours') or 0.0:,.2f} GPU-hours")
        case "failed":
            return Finding("bad", what, f"failed: {status.get('reason')}; {spent}")
        case "preempted":
            return Finding("look", what, f"preempted: the same command goes on with the run; {spent}")
        case "running" if run.length is not None and run.curves.samples >= run.length:  # the report is the last to do
            return Finding("good", what, f"trained on all samples; {spent}")
        case "running":
            silence = (now - _time(status.get("time"), now)).total_seconds()
            if silence < _SILENCE:
                return Finding("good", what, f"running when this page was made; {spent}")
            return Finding(
                "look", what,
                f"said that it was running {duration(silence)} before this page was made, and nothing since: "
                f"probably killed without notice; the same command goes on with it; {spent}",
            )  # fmt: skip
    return None


def _progress(run: RunData) -> Finding | None:
    done, length = run.curves.samples, run.length
    if not done:
        return None
    says = f"{done:,}" + (f" of {length:,} samples ({percent(done / length)})" if length else " samples")
    says += f" in {count(int(run.curves.last('batch') or 0), 'step')}"
    speed = throughput(run.curves, shares=20).values[-1:]
    if length and done < length and len(speed):
        says += f"; about {duration((length - done) / speed[0])} to go at the present speed"
    return Finding("good", "samples", says)


def _loss(run: RunData) -> Finding | None:
    losses = run.curves["loss"].values
    if not len(losses):
        return None
    if not np.isfinite(losses[-1]):
        return Finding("bad", "loss", "not finite (NaN or infinite) at the last step")
    finite = losses[np.isfinite(losses)]
    part = len(finite) // 10
    if part < 5:
        return Finding("good", "loss", f"{brief(finite[-1])} after {count(len(finite), 'step')}")
    before, now = finite[-2 * part : -part], finite[-part:]
    change = now.mean() - before.mean()
    noise = 3 * np.sqrt((before.var() + now.var()) / part)
    says = f"{brief(now.mean())}, the mean of the last {part:,} steps"
    if abs(change) <= max(noise, 0.001 * abs(before.mean())):
        return Finding("good", "loss", f"{says}; level with the {part:,} before")
    share = percent(abs(change / before.mean()))
    if change > 0:
        return Finding("look", "loss", f"{says}; rising: {share} higher than in the {part:,} before")
    return Finding("good", "loss", f"{says}; falling: {share} lower than in the {part:,} before")


def _evaluations(run: RunData) -> list[Finding]:
    found = []
    for key in evaluation_keys(run.curves.keys)[:4]:
        samples, values = run.curves[key].finite
        if not len(values):
            continue
        sign = -1 if "loss" in key else 1
        best = int((sign * values).argmax())
        is_worse = len(values) > 2 and sign * (values[best] - values[-1]) > _WORSE * abs(values[best])
        says = f"{brief(values[-1])} after {samples[-1]:,.0f} samples"
        says += f"; it was better, {brief(values[best])}, after {samples[best]:,.0f}" if is_worse else ""
        found.append(Finding("look" if is_worse else "good", readable(key), says))
    return found


def _spikes(run: RunData) -> Finding | None:
    steps, what = len(run.curves), "loss spikes"
    if not steps:
        return None
    skipped = len(run.curves["skipped"].values)
    odd = outliers(run.curves)
    infinite = int((~np.isfinite(run.curves["loss"].values)).sum())
    parts = [f"{count(skipped, 'step')} left out ({percent(skipped / steps)})"] if skipped else []
    parts += [f"{count(infinite, 'loss', 'losses')} not finite"] if infinite else []
    if odd:
        shown = ", ".join(f"{batch:,}" for batch in odd[:5]) + (", …" if len(odd) > 5 else "")
        parts.append(f"{count(len(odd), 'step')} whose loss stands out: {shown}")
    mark: Mark = "look" if odd or infinite or skipped > _MANY_SKIPPED * steps else "good"
    return Finding(mark, what, "; ".join(parts) or "none: no step was left out, and none stands out")


def _replaced(run: RunData) -> Finding | None:
    replaced = run.curves["data/replaced_samples"].values
    if not len(run.curves):
        return None
    share = replaced[-1] / run.curves.samples if len(replaced) else 0.0
    allowed = run.setting("data.train.max_bad_share") or 0.01
    says = (
        f"{count(int(replaced[-1]), 'sample')} replaced ({percent(share)})" if share else "every sample could be used"
    )
    return Finding("look" if share > allowed / 2 else "good", "data", says)


def _interruptions(run: RunData) -> Finding | None:
    starts = list(run.curves.starts.values())
    if not starts:
        return None
    number = max(starts[-1].number, int(run.status.get("start") or 0))
    lost = run.curves.lost_steps
    if number == 1 and not lost:
        return Finding("good", "interruptions", f"none: one start, on {say_processes(starts)}")
    share = lost / len(run.curves)
    says = f"{count(number, 'start')}, on {say_processes(starts)}; "
    says += f"{count(lost, 'step')} had to be done again ({percent(share)})" if lost else "no step was lost"
    if share <= _MUCH_LOST:
        return Finding("good", "interruptions", says)
    return Finding("look", "interruptions", f"{says}; with a shorter save_interval, fewer would be")


def _input_wait(run: RunData) -> Finding | None:
    waited = run.curves["throughput/input_wait"].finite.values
    if not len(waited):
        return None
    share = float(waited[-max(len(waited) // 10, 1) :].mean())
    is_much = share > _MUCH_WAITING
    says = f"{percent(share)} of a step"
    says += "; the loader is the limit, not the GPU: more speed.workers may help" if is_much else ""
    return Finding("look" if is_much else "good", "waiting for data", says)


def _mfu(run: RunData) -> Finding | None:
    mfu = run.curves["throughput/mfu"].finite.values
    if not len(mfu):
        return None
    return Finding("good", "MFU", f"{percent(float(mfu[-max(len(mfu) // 10, 1) :].mean()))} of the GPUs' nominal peak")


def _time(text: object, default: datetime) -> datetime:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return default
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
