#!/usr/bin/env python3
"""Checks config/kubernetes without a cluster: kustomize builds each folder; the result has the shape that several versions
of Kubernetes expect, labels and ports fit together, and Candor accepts the settings.

The schemas of Kubernetes come from PyPI (kubernetes-validate). That of InferencePool is written below, from the documentation
of its version v1; --crd takes the definition itself: config/crd/bases/inference.networking.k8s.io_inferencepools.yaml of
kubernetes-sigs/gateway-api-inference-extension."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
FOLDERS = ["base", "gateway"]
VERSIONS = ["1.27", "1.30", "1.33", "1.37"]

PORT = {
    "type": "object",
    "required": ["number"],
    "additionalProperties": False,
    "properties": {"number": {"type": "integer", "minimum": 1, "maximum": 65535}},
}
INFERENCE_POOL = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["selector", "targetPorts"],
            "additionalProperties": False,
            "properties": {
                "selector": {
                    "type": "object",
                    "required": ["matchLabels"],
                    "additionalProperties": False,
                    "properties": {
                        "matchLabels": {
                            "type": "object",
                            "minProperties": 1,
                            "additionalProperties": {"type": "string", "maxLength": 63},
                        }
                    },
                },
                "targetPorts": {"type": "array", "minItems": 1, "maxItems": 8, "items": PORT},
                "appProtocol": {"enum": ["http", "kubernetes.io/h2c"]},
                "endpointPickerRef": {
                    "type": "object",
                    # The port may be left out for other kinds than Service.
                    "required": ["name", "port"],
                    "additionalProperties": False,
                    "properties": {
                        "group": {"type": "string"},
                        "kind": {"type": "string"},
                        "name": {"type": "string", "minLength": 1},
                        "port": PORT,
                        "failureMode": {"enum": ["FailOpen", "FailClose"]},
                    },
                },
            },
        }
    },
}


def build(folder):
    """The objects that kustomize makes of a folder."""
    import yaml

    if shutil.which("kustomize"):
        command = ["kustomize", "build"]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    else:
        sys.exit("kubernetes: kustomize or kubectl 1.21 or later is required; see https://kubernetes.io/docs/tasks/tools")
    done = subprocess.run([*command, folder], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"kubernetes: `{' '.join(command)} {folder}` failed")
    return list(yaml.safe_load_all(done.stdout))


def definition(path):
    """The schema of a CustomResourceDefinition, strict: objects have no further properties than those that it names."""
    import yaml

    def strict(schema):
        if isinstance(schema, list):
            return [strict(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        schema = {key: strict(value) for key, value in schema.items()}
        if isinstance(schema.get("properties"), dict) and "type" in schema:
            schema.setdefault("additionalProperties", False)
        return schema

    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    [schema] = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    schema = strict(schema)
    # Its own properties are Kubernetes'.
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def check_shape(thing, pool_schema):
    import jsonschema
    import kubernetes_validate

    if thing["kind"] == "InferencePool":
        jsonschema.validate(thing, pool_schema)
        return
    for version in VERSIONS:
        kubernetes_validate.validate(thing, version, strict=True)


def check_fit(things):
    """What refers to something refers to something that is there."""
    by_kind = {thing["kind"]: thing for thing in things}
    assert len(by_kind) == len(things), "one object of each kind"
    pod = by_kind["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    selectors = {
        "Deployment": by_kind["Deployment"]["spec"]["selector"]["matchLabels"],
        "Service": by_kind["Service"]["spec"]["selector"],
        "PodDisruptionBudget": by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    }
    pool = by_kind.get("InferencePool")
    if pool:
        selectors["InferencePool"] = pool["spec"]["selector"]["matchLabels"]
        assert [port["number"] for port in pool["spec"]["targetPorts"]] == list(ports.values()), "the pool's ports"
        assert pod["metadata"]["labels"]["llm-d.ai/engine-type"] == "vllm"
    for kind, labels in selectors.items():
        assert labels.items() <= pod["metadata"]["labels"].items(), f"{kind} selects other pods: {labels}"
    for port in by_kind["Service"]["spec"]["ports"]:
        assert port["targetPort"] in ports, f"the Service's port: {port}"

    settings = by_kind["ConfigMap"]
    assert container["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]
    milliseconds = [int(settings["data"][f"CANDOR_SERVER__{name}_MS"]) for name in ("DRAIN", "SHUTDOWN_GRACE")]
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    assert sum(milliseconds) / 1000 + 10 <= grace, f"{grace} s are too short for {milliseconds} ms"
    return settings["data"]


def check_settings(candor, settings):
    """Candor knows each of them, and its value is allowed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CANDOR_")}
    done = subprocess.run([candor, "config"], env=own | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def main():
    from rig import python_environment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candor", type=pathlib.Path, help="the program, to check the settings with")
    parser.add_argument("--crd", type=pathlib.Path, help="the definition of InferencePool")
    asked = parser.parse_args()
    try:
        import kubernetes_validate  # noqa: F401
    except ImportError:
        python = python_environment("kubernetes", HERE / "kubernetes.txt") / "python"
        os.execv(python, [python, *sys.argv])

    pool_schema = definition(asked.crd) if asked.crd else INFERENCE_POOL
    for name in FOLDERS:
        things = build(ROOT / "config" / "kubernetes" / name)
        kinds = ", ".join(sorted(thing["kind"] for thing in things))
        try:
            for thing in things:
                check_shape(thing, pool_schema)
            settings = check_fit(things)
            if asked.candor:
                check_settings(asked.candor, settings)
        except Exception as error:
            sys.exit(f"kubernetes: config/kubernetes/{name}: {getattr(error, 'message', None) or repr(error)}")
        print(f"kubernetes: config/kubernetes/{name}: {kinds}: ok")


if __name__ == "__main__":
    main()
