"""What the tests of docker-compose.yml and of the manifests for Kubernetes compare with."""

from dataclasses import fields
from pathlib import Path

import yaml

from crawler.config import CrawlConfig, FrontierConfig
from ranker.config import WalkConfig

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
PARTS = {"seed", "worker", "walker", "dashboard"}
SETTINGS = {
    f"TINYLM_{section}_{field.name.upper()}"
    for section, owner in (("FRONTIER", FrontierConfig), ("CRAWL", CrawlConfig), ("WALK", WalkConfig))
    for field in fields(owner)
}
