"""Settings of the runner, read once from its environment."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from wfhub_common import egress
from wfhub_common.messages.tasks import Slug
from wfhub_common.settings import BrokerSettings, Settings

from wfhub_agent_runner import egress_policy, image_policy
from wfhub_agent_runner.egress_policy import EgressRules
from wfhub_agent_runner.gitwork.eviction import Budget
from wfhub_agent_runner.image_policy import ImagePolicy
from wfhub_agent_runner.sandbox.choice import AUTH_FILE, Choice
from wfhub_agent_runner.sandbox.pods.manifest import Pods

NO_CGROUP = "none"
OWN_CGROUP = "required"
_LABEL = "[a-z0-9][a-z0-9._=-]{0,62}"


class RunnerSettings(BrokerSettings):
    runner_id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")  # it stands in subjects
    runner_name: str = "runner"
    runner_slots: int = Field(2, ge=1, le=1000)  # attempts at once; each may use a whole core
    runner_pool: Slug = "default"
    # What tasks may ask of this runner, ','-separated.
    runner_labels: str = Field("", pattern=rf"^({_LABEL}(,{_LABEL})*)?$")
    runner_home: Path  # mirrors, trees, leases, spool; on a file system that can be an overlay
    runner_uid: int = Field(
        64001, ge=1
    )  # what a runner started as root becomes before anything else
    toolchains: str = ""  # ':'-separated folders of the host, read-only in every sandbox
    file_repos: bool = False  # paths and file: URLs: the operator's own machine only
    repo_roots: str = ""  # ':'-separated; where such repositories may lie; empty: anywhere
    git_hosts: str = ""  # ','-separated host[:port] or *.domain, private ones too; empty: public
    git_credentials_file: Path | None = None  # JSON (gitwork/remote/credentials)
    git_credentials: str = Field("", repr=False)  # the same, itself; a file is better kept
    git_known_hosts_file: Path | None = None
    git_ca_file: Path | None = None  # PEM, of authorities besides the system's
    # host:port that a task may ask for, ','-separated, maybe =project,project; …; empty: none
    egress_allowed: str = ""
    egress_private_hosts: str = ""  # ','-separated; those of them that may have private addresses
    shared_caches: str = ""  # name:/folder=project,project;… (shared_caches), read-only
    # ':'-separated delegated cgroups, v2 one, v1 one of each controller; empty: one is made if the
    # machine lets us; `required`: else the runner does not start; `none`: not even tried.
    cgroup_root: str = ""
    workspace_root: Path | None = None  # its folders are `mount:<path>` and `directory:<path>`
    workspace_folders: str = ""  # which project may use which (gitwork/folders); empty: any
    # Of checkouts, set-up layers and mirrors kept for later attempts; what runs is never removed.
    cache_bytes_max: int = Field(20 * 1024**3, ge=0)
    cache_age_s: float = Field(14 * 86_400.0, ge=0)  # since it was used last
    disk_free_bytes_min: int = Field(1024**3, ge=0)  # below it, more is removed
    proofs_url: str
    gateway_url: str
    service_token: str = ""
    sandbox_backend: Literal["bwrap", "container", "kubernetes"] = "bwrap"
    # For `container`: what fetches images, what starts containers, and which images there are.
    container_engine: str = "podman"
    container_runtime: str = "crun"
    container_image: str = ""  # the default; a name, or docker-archive:/file, oci-archive:/file
    container_auth_file: Path | None = None  # containers-auth.json(5), of registries
    container_images: str = ""  # others: image=project,project;image=* (image_policy)
    http_proxy: str = ""  # this and the next: of the engine, on its way to registries
    https_proxy: str = ""
    no_proxy: str = ""
    probe_every_s: float = Field(300.0, gt=0)  # escape probes through the real backend
    ready_file: Path | None = None  # written once registered, for a supervisor

    @model_validator(mode="after")
    def _one_way_to_credentials(self) -> Self:
        if self.git_credentials and self.git_credentials_file:
            raise ValueError("GIT_CREDENTIALS and GIT_CREDENTIALS_FILE: set one of them")
        return self

    @field_validator("egress_allowed")
    @classmethod
    def _endpoints(cls, value: str) -> str:
        egress_policy.parse(value)
        return value

    @field_validator("egress_private_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        return ",".join(egress.host(part) for part in egress.listed(value))

    def egress_rules(self) -> EgressRules:
        return EgressRules(
            rules=egress_policy.parse(self.egress_allowed),
            private_hosts=frozenset(egress.listed(self.egress_private_hosts)),
        )

    def cache_budget(self) -> Budget:
        return Budget(self.cache_bytes_max, self.cache_age_s, self.disk_free_bytes_min)

    def image_policy(self) -> ImagePolicy | None:
        """None: the backend has no images."""
        if self.sandbox_backend == "bwrap":
            return None
        return image_policy.parse(self.container_image, self.container_images)

    def sandbox(self) -> Choice:
        policy = self.image_policy()
        engine_env = {
            AUTH_FILE: self.container_auth_file,
            "HTTP_PROXY": self.http_proxy,
            "HTTPS_PROXY": self.https_proxy,
            "NO_PROXY": self.no_proxy,
        }
        return Choice(
            backend=self.sandbox_backend,
            images=policy.names() if policy else (),
            engine=self.container_engine,
            runtime=self.container_runtime,
            engine_env={name: str(value) for name, value in engine_env.items() if value},
        )

    @field_validator("container_images")
    @classmethod
    def _image_rules(cls, value: str) -> str:
        image_policy.parse("", value)
        return value

    def labels(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.runner_labels.split(",")) - {""}))

    def toolchain_paths(self) -> tuple[Path, ...]:
        return tuple(Path(part) for part in self.toolchains.split(":") if part)

    def cgroup_paths(self) -> tuple[Path, ...]:
        if self.cgroup_root == NO_CGROUP:
            return ()
        return tuple(Path(part) for part in self.cgroup_root.split(":") if part)

    def git_host_names(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.git_hosts.split(",") if part.strip())

    def repo_root_paths(self) -> tuple[Path, ...]:
        return tuple(Path(part) for part in self.repo_roots.split(":") if part)

    def repository_folders(self) -> tuple[tuple[str, Path], ...]:
        """With the setting that names each."""
        root = (("WORKSPACE_ROOT", self.workspace_root),) if self.workspace_root else ()
        return (*root, *(("REPO_ROOTS", path) for path in self.repo_root_paths()))


class PodsSettings(Settings):
    """Of SANDBOX_BACKEND=kubernetes: see sandbox/pods."""

    sandbox_image: str = Field(min_length=1)  # what agents run in; with a Python as `python3`
    sandbox_sidecar_image: str = Field(min_length=1)  # the runner's own
    sandbox_claim: str = Field(min_length=1)  # ReadWriteMany; RUNNER_HOME lies on it
    sandbox_claim_root: Path  # where this runner has it
    sandbox_namespace: str = Field(min_length=1)
    sandbox_instance: str = ""  # a label, which network policies go by
    sandbox_runtime_class: str = ""
    sandbox_user_namespace: bool = True  # of each pod's own; a claim on NFS or SMB cannot have it
    sandbox_cpu: str = "1"
    sandbox_pull_secret: str = ""
    sandbox_bridge_port: int = Field(8070, ge=0, le=65535)
    pod_ip: str = Field(min_length=1)
    kubernetes_service_host: str = Field(min_length=1)  # this and the next by the kubelet
    kubernetes_service_port: int = 443

    def pods(self, uid: int, runner_id: str) -> Pods:
        return Pods(
            namespace=self.sandbox_namespace,
            image=self.sandbox_image,
            sidecar_image=self.sandbox_sidecar_image,
            claim=self.sandbox_claim,
            claim_root=self.sandbox_claim_root,
            uid=uid,
            runner=runner_id,
            instance=self.sandbox_instance,
            runtime_class=self.sandbox_runtime_class,
            user_namespace=self.sandbox_user_namespace,
            cpu=self.sandbox_cpu,
            pull_secret=self.sandbox_pull_secret,
        )
