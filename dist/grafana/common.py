"""What several dashboards have."""

from typing import Final

from dist.grafana.model import Panel, lines, rate, share, total

BITS: Final = " * 8"


def process(job: str) -> list[Panel]:
    """What every service has."""
    return [
        lines(
            "Processor",
            "percentunit",
            "Of one core. Normal: as the traffic; a relay that forwards in the kernel is near zero",
            (rate("process_cpu_time_total", "instance", job), "{{instance}}"),
        ),
        lines(
            "Memory",
            "bytes",
            "Resident. Normal: flat after the first minutes",
            (total("process_memory_usage", "instance", job), "{{instance}}"),
        ),
        lines(
            "File descriptors",
            "percentunit",
            "Of those allowed. Normal: far below 80 %, where PosternDescriptorsShort begins",
            (
                share(
                    total("process_unix_file_descriptor_count", "instance", job),
                    total("postern_process_file_descriptors_max", "instance", job),
                ),
                "{{instance}}",
            ),
        ),
    ]
