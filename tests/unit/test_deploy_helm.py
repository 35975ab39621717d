"""The chart's templates, read as text: what `make helm-test` cannot know without the services."""

import json
import re
from pathlib import Path

import pytest
import yaml

from sightline.version import __version__
from tests.unit.test_deploy_docker import CONFIGS, config_of, environment_of, variables_of

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "sightline"
VALUE_FILES = CHART.parent / "tests" / "values"
TEMPLATES = {
    "gateway": "gateway",
    "worker": "inference_worker",
    "dialogue": "dialogue",
    "tts": "tts",
    "asr": "asr",
}


def template(name: str) -> str:
    return (CHART / "templates" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_sets_variables_that_its_service_reads(name: str) -> None:
    service = TEMPLATES[name]
    prefix = config_of(service).prefix
    named = set(re.findall(rf'"({prefix}[A-Z0-9_]+)"', template(name)))
    assert named <= variables_of(service)
    assert f'"prefix" "{prefix.removesuffix("_")}"' in template(name)
    assert {f"{prefix}LOG_LEVEL", f"{prefix}DRAIN_S"} <= variables_of(service)  # the helper's


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "gateway"])
def test_a_template_has_the_ports_of_the_image(name: str) -> None:
    environment = environment_of(TEMPLATES[name])
    prefix = config_of(TEMPLATES[name]).prefix
    ports = dict(re.findall(r'"(grpc|http|metrics)" (\d+)', template(name)))
    assert ports == {
        "grpc": environment[f"{prefix}GRPC_PORT"],
        "http": environment[f"{prefix}HTTP_PORT"],
        "metrics": environment[f"{prefix}METRICS_PORT"],
    }


def test_the_gateway_has_the_ports_of_its_image_by_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    environment = environment_of("gateway")
    for name, port in values["gateway"]["ports"].items():
        assert environment[f"GATEWAY_{name.upper()}_PORT"] == str(port)


def test_every_service_is_rendered_by_the_one_helper() -> None:
    for name in TEMPLATES:
        assert template(name).count('include "sightline.component"') == 1
        assert "kind: " not in template(name)


def test_the_users_of_images_and_pods_are_the_same() -> None:
    for name, service in TEMPLATES.items():
        dockerfile = (CHART.parents[1] / "docker" / f"{service}.Dockerfile").read_text()
        [user] = re.findall(r"^USER (\d+)$", dockerfile, flags=re.MULTILINE)
        assert f'"user" {user}' in template(name)


def test_the_chart_the_compose_file_and_the_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    repository = CHART.parents[2]
    package = __version__
    tags = set(
        re.findall(r"SIGHTLINE_TAG:-([^}]+)", (repository / "docker-compose.yml").read_text())
    )
    assert {chart["version"], chart["appVersion"], package} | tags == {package}


@pytest.mark.parametrize("service", CONFIGS)
def test_variables_in_value_files_exist(service: str) -> None:
    prefix = config_of(service).prefix
    files = [CHART / "values.yaml", *VALUE_FILES.glob("*.yaml")]
    named = {
        name for file in files for name in re.findall(rf"\b{prefix}[A-Z0-9_]+", file.read_text())
    }
    assert named <= variables_of(service)
    schema = json.loads((CHART / "values.schema.json").read_text())
    component = next(name for name, image in TEMPLATES.items() if image == service)
    [pattern] = schema["properties"][component]["properties"]["env"]["patternProperties"]
    assert all(re.match(pattern, name) for name in variables_of(service))
