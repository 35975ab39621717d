"""Images and the compose file, read as text: what they install, expose, run and set."""

import importlib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import images
from services.common.config import EnvConfig, variable

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "deploy" / "docker"
CONFIGS = {
    "gateway": "GatewayConfig",
    "inference_worker": "WorkerConfig",
    "dialogue": "DialogueConfig",
    "tts": "TtsConfig",
    "asr": "AsrConfig",
}
HUB = {"inference_worker": {"HF_ENDPOINT", "HF_TOKEN_PATH"}, "asr": {"HF_ENDPOINT"}}
CONTAINERS = {
    "gateway": "gateway",
    "gateway-2": "gateway",
    "worker": "inference_worker",
    "worker-gpu": "inference_worker",
    "dialogue": "dialogue",
    "tts": "tts",
    "asr": "asr",
}


def config_of(service: str) -> type[EnvConfig]:
    config = getattr(importlib.import_module(f"services.{service}.config"), CONFIGS[service])
    assert issubclass(config, EnvConfig)
    return config


def variables_of(service: str) -> set[str]:
    config = config_of(service)
    return {variable(config, item) for item in fields(config)}


def instructions(service: str) -> list[list[tuple[str, str]]]:
    """The stages of a Dockerfile, each a list of (instruction, arguments)."""
    text = (DOCKER / f"{service}.Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[list[tuple[str, str]]] = [[]]
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, " ".join(arguments.split())))
    return stages


def environment_of(service: str) -> dict[str, str]:
    settings = [value for name, value in instructions(service)[-1] if name == "ENV"]
    return dict(pair.split("=", 1) for pair in " ".join(settings).split())


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return loaded


@pytest.mark.parametrize("service", CONFIGS)
def test_an_image_installs_what_its_locks_hold_and_nothing_else(service: str) -> None:
    *builders, final = instructions(service)
    runs = [value for stage in builders for name, value in stage if name == "RUN"]
    installs = [run for run in runs if "pip3" in run and " install " in run]
    assert len(installs) == 2  # tools and packages
    assert all("--require-hashes" in run for run in installs)
    copied = [value for name, value in builders[-1] if name == "COPY" and "locks" in value]
    assert copied[0].startswith(f"deploy/docker/locks/{service}")
    assert "/opt/tools" not in str(final)  # what writes stubs and lists stays out


@pytest.mark.parametrize("service", CONFIGS)
def test_an_image_says_what_it_is_and_what_is_in_it(service: str) -> None:
    final = instructions(service)[-1]
    [labels] = [value for name, value in final if name == "LABEL"]
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert ("COPY", f"--from=packages /src/sbom.cdx.json {images.SBOM}") in final


def test_what_is_built_is_what_the_compose_file_runs(compose: dict[str, Any]) -> None:
    run = {
        service["image"]
        for name, service in compose["services"].items()
        if not name.startswith("redis")
    }
    tag = images.version()
    expected = {
        f"${{SIGHTLINE_REPOSITORY:-sightline}}/{image.name}:${{SIGHTLINE_TAG:-{tag}}}"
        f"{image.suffix}${{{image.variable}:-}}"
        for image in images.IMAGES
    }
    assert run == expected
    dockerfiles = {path.name.removesuffix(".Dockerfile") for path in DOCKER.glob("*.Dockerfile")}
    assert {image.name for image in images.IMAGES} == dockerfiles


@pytest.mark.parametrize("service", CONFIGS)
def test_an_image_holds_the_code_of_its_service_alone(service: str) -> None:
    copied = [value.split() for name, value in instructions(service)[-1] if name == "COPY"]
    from_here = {source for source, _ in (c for c in copied if not c[0].startswith("--from"))}
    expected = {"sightline", "services/__init__.py", "services/common", f"services/{service}"}
    of_page = {"clients/js/src"} if service == "gateway" else set()
    assert from_here == expected | of_page
    for path in from_here:
        assert (REPOSITORY / path).exists()


@pytest.mark.parametrize("service", CONFIGS)
def test_an_image_runs_its_service_without_a_shell_and_without_root(service: str) -> None:
    final = instructions(service)[-1]
    assert ("CMD", f'["python", "-m", "services.{service}"]') in final
    [user] = [value for name, value in final if name == "USER"]
    assert int(user) > 0  # a number: Kubernetes cannot tell whether a name is root
    order = [name for name, _ in final]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name in ("RUN", "COPY"))


@pytest.mark.parametrize("service", CONFIGS)
def test_an_image_exposes_the_ports_it_sets_and_asks_the_right_one_for_its_health(
    service: str,
) -> None:
    final = instructions(service)[-1]
    environment = environment_of(service)
    ports = {value for name, value in environment.items() if name.endswith("_PORT")}
    [exposed] = [value for name, value in final if name == "EXPOSE"]
    assert {port.partition("/")[0] for port in exposed.split()} == ports
    prefix = config_of(service).prefix
    assert environment[f"{prefix}HOST"] == "0.0.0.0"
    [health] = [value for name, value in final if name == "HEALTHCHECK"]
    # Whether or not a certificate was given: the gateway's port of figures is never encrypted.
    port = "METRICS_PORT" if service == "gateway" else "HTTP_PORT"
    assert f"'{prefix}{port}'" in health
    assert "/healthz" in health


@pytest.mark.parametrize("service", CONFIGS)
def test_an_image_sets_variables_that_its_service_reads(service: str) -> None:
    prefix = config_of(service).prefix
    own = {name for name in environment_of(service) if name.startswith(prefix)}
    assert own <= variables_of(service)


def test_the_shared_stages_are_the_same_in_every_dockerfile() -> None:
    shared = {service: instructions(service)[1:3] for service in CONFIGS}
    assert [stage[0][1].split()[-1] for stage in shared["tts"]] == ["tools", "stubs"]
    assert all(stages == shared["tts"] for stages in shared.values())


def test_what_the_images_copy_is_in_the_build_context() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    for service in CONFIGS:
        for stage in instructions(service):
            for name, value in stage:
                if name == "COPY" and not value.startswith("--from"):
                    for source in value.split()[:-1]:
                        assert any(source == path or source.startswith(f"{path}/") for path in kept)
    patterns = [line for line in lines if not line.startswith("#")]
    assert not any("weights" in line for line in patterns)  # the worker brings its model


@pytest.mark.parametrize("container", CONTAINERS)
def test_compose_sets_variables_that_exist_to_values_they_take(
    container: str, compose: dict[str, Any]
) -> None:
    service = CONTAINERS[container]
    environment = {
        name: re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", str(value))
        for name, value in compose["services"][container]["environment"].items()
    }
    hub = {name for name in environment if name.startswith("HF_")}  # read by its own client
    assert hub == HUB.get(service, set())
    assert set(environment) - hub <= variables_of(service)
    environment.pop("GATEWAY_MEDIA_ROOT", None)  # a folder of the container
    config_of(service).from_env(environment_of(service) | environment)


@pytest.mark.parametrize("container", CONTAINERS)
def test_compose_names_peers_where_they_listen(container: str, compose: dict[str, Any]) -> None:
    found = 0
    for value in compose["services"][container]["environment"].values():
        for host, port in re.findall(r"\b([a-z]+):(\d{4,5})\b", str(value)):
            found += 1
            if host == "redis":
                assert port == "6379"
                continue
            assert host in compose["services"]
            assert port in environment_of(CONTAINERS[host]).values()
    assert found > 0 or container in ("tts", "asr")


def test_compose_is_valid_for_old_and_new(compose: dict[str, Any]) -> None:
    assert "name" not in compose  # docker-compose 1.29 refuses it
    assert "version" not in compose  # Compose v2 complains
    for name, service in compose["services"].items():
        dockerfile = service.get("build", {}).get("dockerfile")
        assert name.startswith("redis") or (REPOSITORY / dockerfile).exists()
        for peer, wait in service.get("depends_on", {}).items():
            lives = "healthcheck" in compose["services"][peer] or peer in CONTAINERS
            until = "service_healthy" if lives else "service_completed_successfully"
            assert wait == {"condition": until}
            assert "profiles" not in compose["services"][peer]  # refused where it is not chosen


def test_one_worker_runs_and_the_gpu_one_takes_its_name(compose: dict[str, Any]) -> None:
    services = compose["services"]
    optional = {
        name: service["profiles"] for name, service in services.items() if "profiles" in service
    }
    shared = ["gateways"]
    gateways = {"gateway-2": shared, "redis-leases": shared}
    assert optional == {"worker": ["cpu"], "worker-gpu": ["gpu"], "asr": ["voice"]} | gateways
    assert "COMPOSE_PROFILES=cpu" in (REPOSITORY / ".env").read_text().splitlines()
    assert services["worker-gpu"]["networks"]["default"]["aliases"] == ["worker"]
    [device] = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert services["worker"]["build"]["args"]["TORCH_INDEX"].endswith("/cpu}")
    built = services["worker-gpu"]["build"]["args"]
    assert built["TORCH"] == "cuda"
    assert built["TORCH_INDEX"] == "${SIGHTLINE_CUDA_TORCH_INDEX:-}"


def test_redis_wants_a_password_and_is_reached_by_dialogue_alone(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["redis"]["networks"] == ["conversations"]
    assert compose["networks"]["conversations"] == {"internal": True}
    near = {name for name, each in services.items() if "conversations" in each.get("networks", ())}
    assert near == {"redis", "dialogue"}
    command = services["redis"]["command"]
    assert command[:2] == ["redis-server", "/secret/redis.conf"]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options["--protected-mode"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "--maxmemory" in options
    assert "ports" not in services["redis"]
    knowing = {
        name
        for name, each in services.items()
        if any(str(volume).startswith("redis-password:") for volume in each.get("volumes", ()))
    }
    assert knowing == {"redis-password", "redis", "dialogue"}


def test_figures_are_not_published(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert not any("9090" in port for port in service.get("ports", ())), name
        assert bool(service.get("ports")) == name.startswith("gateway")


def test_two_gateways_differ_in_their_ports_and_names_alone(compose: dict[str, Any]) -> None:
    one, other = (compose["services"][name] for name in ("gateway", "gateway-2"))
    own = {key for key in one if one[key] != other.get(key)}
    assert own == {"environment", "ports"}
    before, after = one["environment"], other["environment"]
    named = {name for name in after if after[name] != before.get(name)}
    ports = {f"GATEWAY_{kind}_PORT" for kind in ("GRPC", "HTTP", "RTMP", "WEBRTC", "SRT")}
    assert named == ports | {"GATEWAY_PEER_HOST"}
    assert not set(one["ports"]) & set(other["ports"])
    leases = compose["services"]["redis-leases"]
    assert "requirepass" in leases["command"][2]
    assert "ports" not in leases


def test_a_worker_keeps_what_it_downloads_and_compiles_on_a_volume(
    compose: dict[str, Any],
) -> None:
    environment = environment_of("inference_worker")
    for variable_ in ("HF_HOME", "TRITON_CACHE_DIR"):
        assert environment[variable_].startswith("/cache/")
    for name in ("worker", "worker-gpu"):
        service = compose["services"][name]
        assert service["read_only"]
        assert "${SIGHTLINE_CACHE:-cache}:/cache" in service["volumes"]
        assert any(str(volume).endswith(":/models:ro") for volume in service["volumes"])


def test_a_worker_needs_no_compiler_and_no_temporary_folder_that_executes(
    compose: dict[str, Any],
) -> None:
    """But for Triton on a GPU, which loads what it compiles from its cache."""
    *builders, final = instructions("inference_worker")
    assert ("COPY", "--from=kernels /kernels services/inference_worker/device/built") in final
    assert any("device.build /kernels" in value for stage in builders for _, value in stage)
    for name, value in final:
        assert "gcc" not in value or value.startswith('if [ "$TORCH" = cuda ]'), (name, value)
    for name in ("worker", "worker-gpu"):
        assert compose["services"][name]["tmpfs"] == ["/tmp"]


def test_containers_get_longer_to_end_than_their_drain(compose: dict[str, Any]) -> None:
    for container, service in CONTAINERS.items():
        grace = compose["services"][container]["stop_grace_period"]
        drain = config_of(service)().drain_s if service != "dialogue" else 10.0
        assert float(grace.removesuffix("s")) > drain + 2
