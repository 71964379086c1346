"""The dashboards, of the metrics in docs/metrics.md. ``python3 -m dist.grafana.dashboards`` writes their files."""

from pathlib import Path
from typing import Final

from dist.grafana.fleet import FLEET
from dist.grafana.gateways import GATEWAYS
from dist.grafana.model import text
from dist.grafana.relays import RELAYS

HERE: Final = Path(__file__).parent
DASHBOARDS: Final = {"relay": RELAYS, "gateway": GATEWAYS, "fleet": FLEET}


if __name__ == "__main__":
    for name, each in DASHBOARDS.items():
        (HERE / f"{name}.json").write_text(text(each), encoding="utf-8")
