"""What every attempt of a runner works with, made once in main.py."""

from dataclasses import dataclass, field
from pathlib import Path

from faststream.nats import NatsBroker

from wfhub_agent_runner import shared_caches
from wfhub_agent_runner.agents.probing import Versions
from wfhub_agent_runner.delivery import Delivery
from wfhub_agent_runner.egress_policy import EgressRules
from wfhub_agent_runner.finished import HandingIn
from wfhub_agent_runner.gitwork.workspaces import Workspaces
from wfhub_agent_runner.image_policy import ImagePolicy
from wfhub_agent_runner.metrics import Metrics
from wfhub_agent_runner.sandbox import port
from wfhub_agent_runner.scheduler_link import SchedulerLink
from wfhub_agent_runner.set_up import SetUps
from wfhub_agent_runner.spool import Spool
from wfhub_agent_runner.toolchains import Toolchains


@dataclass(frozen=True)
class Parts:
    """Of this runner."""

    runner_id: str
    broker: NatsBroker
    link: SchedulerLink
    workspaces: Workspaces
    sandbox: port.Sandbox
    spool: Spool
    delivery: Delivery
    handing_in: HandingIn
    toolchains: Toolchains
    python: tuple[str, ...]  # the words that start one inside every sandbox
    gateway_url: str
    set_ups: SetUps
    versions: Versions
    secrets: tuple[str, ...]  # of this process: masked in every log
    scratch: Path
    egress: EgressRules = field(default_factory=EgressRules)  # by default nothing
    caches: tuple[shared_caches.Rule, ...] = ()
    images: ImagePolicy | None = None  # of a sandbox that has images
    metrics: Metrics = field(default_factory=Metrics)
