"""Writes the gRPC stubs, and is the build backend that does so before it builds the client.

A backend of its own (PEP 517) because stubs must be there before setuptools looks for packages:
for a wheel, a source distribution and an editable install alike. They are written into
`sightline/v1`, by the grpcio-tools that pyproject.toml asks for: stubs run with the versions of
grpcio and protobuf that made them, and newer ones.
"""

from importlib import resources
from pathlib import Path
from typing import Any

from setuptools import build_meta

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = Path(__file__).with_name("sightline") / "v1"


def write() -> None:
    """Write `sightline/v1` anew. Raises RuntimeError for a contract that protoc refuses."""
    from grpc_tools import protoc

    package = ROOT / "sightline" / "v1"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text('"""The stubs of protos/sightline/v1, written by it."""\n')
    protos = sorted(str(path) for path in CONTRACT.glob("*.proto"))
    places = [f"--{kind}_out={ROOT}" for kind in ("python", "pyi", "grpc_python")]
    includes = [f"-I{ROOT / 'protos'}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    if code := protoc.main(["protoc", *includes, *places, *protos]):
        raise RuntimeError(f"protoc ended with {code}")


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    write()
    return build_meta.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    write()
    return build_meta.get_requires_for_build_editable(config_settings)


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    write()
    return build_meta.get_requires_for_build_sdist(config_settings)


prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable


def build_wheel(folder: str, config_settings: Any = None, metadata: str | None = None) -> str:
    write()
    return build_meta.build_wheel(folder, config_settings, metadata)


def build_editable(folder: str, config_settings: Any = None, metadata: str | None = None) -> str:
    write()
    return build_meta.build_editable(folder, config_settings, metadata)


def build_sdist(folder: str, config_settings: Any = None) -> str:
    write()
    return build_meta.build_sdist(folder, config_settings)


if __name__ == "__main__":
    write()
