"""Whether the standard `OTEL_*` variables ask for export; everything else in them the SDK reads.

Source: OpenTelemetry specification, environment variables.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.errors import ConfigError

__all__ = ["Wanted", "wanted"]

_PREFIX = "OTEL_EXPORTER_OTLP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be exported over OTLP; `sample_ratio` is None when the SDK's sampler decides."""

    traces: bool = False
    metrics: bool = False
    sample_ratio: float | None = None

    def __bool__(self) -> bool:
        return self.traces or self.metrics


def wanted(environ: Mapping[str, str]) -> Wanted:
    """Read what is asked for: an exporter named, or an endpoint given.

    Raises:
        ConfigError: A protocol, exporter or ratio that is not there.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Wanted()
    return Wanted(
        traces=_signal(environ, "TRACES"),
        metrics=_signal(environ, "METRICS"),
        sample_ratio=_ratio(environ),
    )


def _signal(environ: Mapping[str, str], signal: str) -> bool:
    endpoint = environ.get(f"{_PREFIX}_{signal}_ENDPOINT") or environ.get(f"{_PREFIX}_ENDPOINT")
    name = f"OTEL_{signal}_EXPORTER"
    exporter = environ.get(name, "").strip() or ("otlp" if endpoint else "none")
    if exporter not in ("otlp", "none"):
        raise ConfigError(f"{name}: `{exporter}` is not supported, only `otlp` and `none` are")
    if exporter == "none":
        return False
    for key in (f"{_PREFIX}_{signal}_PROTOCOL", f"{_PREFIX}_PROTOCOL"):
        protocol = environ.get(key, "").strip()
        if protocol and protocol != "grpc":
            raise ConfigError(f"{key}: `{protocol}` is not supported, only `grpc` is")
        if protocol:
            break
    return True


def _ratio(environ: Mapping[str, str]) -> float | None:
    if not environ.get("OTEL_TRACES_SAMPLER", "").strip().endswith("traceidratio"):
        return None
    key = "OTEL_TRACES_SAMPLER_ARG"
    text = environ.get(key, "1.0").strip()
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ConfigError(f"{key}: `{text}` is not a number from 0 to 1")
    return ratio
