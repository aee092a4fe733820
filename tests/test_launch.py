"""What starts jobs: shell scripts, environments, manifests and the checks before a job."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from processes import SETTINGS
from test_train import ROOT, metrics_of

LAUNCH = ROOT / "launch"
FLAGS = sorted((LAUNCH / "flags").glob("*.env"))
MANIFESTS = [
    (path.name, document)
    for path in sorted((LAUNCH / "k8s").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
KUBERNETES = "1.31"
# The fields of a JobSet that ours use (jobset.x-k8s.io/v1alpha2); its jobs have a schema of theirs.
JOBSET_FIELDS = {
    "failurePolicy": {"maxRestarts"},
    "replicatedJobs": {"name", "replicas", "template"},
}


def test_shell_scripts_are_clean():
    scripts = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), ROOT / ".ci" / "run"]
    assert len(scripts) >= 5
    # Files that are only there later are not followed.
    checked = subprocess.run(
        ["shellcheck", "--external-sources", "--exclude=SC1091", *scripts],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.stdout + checked.stderr == ""


@pytest.mark.parametrize("path", FLAGS, ids=lambda path: path.stem)
def test_every_flag_has_its_reason(path):
    lines = path.read_text().splitlines()
    settings = [number for number, line in enumerate(lines) if "=" in line and line[0] != "#"]
    assert settings
    assert all(lines[number - 1].startswith("# ") for number in settings)


def test_every_flag_is_known_to_xla():
    """XLA ends a process whose XLA_FLAGS has a flag that it does not know."""
    flags = "; ".join(f". {path}" for path in FLAGS)  # each adds to XLA_FLAGS
    shown = "import os, jax; jax.devices(); print(os.environ['XLA_FLAGS'])"
    used = subprocess.run(
        ["bash", "-euc", f'set -a; {flags}; exec {sys.executable} -c "{shown}"'],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert used.returncode == 0, used.stderr
    assert len(used.stdout.split()) >= 2


@pytest.mark.parametrize(("name", "manifest"), MANIFESTS)
def test_manifests_fit_their_schemas(name, manifest):
    if manifest["kind"] != "JobSet":
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    spec = manifest["spec"]
    assert spec.keys() == JOBSET_FIELDS.keys()
    assert spec["failurePolicy"].keys() <= JOBSET_FIELDS["failurePolicy"]
    for job in spec["replicatedJobs"]:
        assert job.keys() == JOBSET_FIELDS["replicatedJobs"]
        named = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}}
        kubernetes_validate.validate(named | job["template"], KUBERNETES, strict=True)


def test_a_manifest_with_a_wrong_field_does_not_fit():
    """Or the test above would not say anything."""
    (role,) = (manifest for _, manifest in MANIFESTS if manifest["kind"] == "Role")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(role | {"rule": []}, KUBERNETES, strict=True)


def test_pods_may_do_what_jax_asks_of_the_cluster():
    """It lists pods and services and reads a job, as the account that the pods run under."""
    by_kind = {manifest["kind"]: manifest for _, manifest in MANIFESTS}
    allowed = {
        (resource, verb)
        for rule in by_kind["Role"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {("pods", "list"), ("services", "list"), ("jobs", "get")} <= allowed
    account = by_kind["ServiceAccount"]["metadata"]["name"]
    assert by_kind["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    for _, manifest in MANIFESTS:
        if manifest["kind"] == "JobSet":
            (job,) = manifest["spec"]["replicatedJobs"]
            pod = job["template"]["spec"]["template"]["spec"]
            assert pod["serviceAccountName"] == account
            script = pod["containers"][0]["command"][-1]
            assert "--config.distributed.initialize=True" in script


def preflight(*arguments):
    return subprocess.run(
        [sys.executable, LAUNCH / "preflight.py", *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_preflight_refuses_a_place_that_cannot_be_written():
    checked = preflight("--workdir", "/proc/run")
    assert checked.returncode == 1
    assert checked.stderr.splitlines()[-1].startswith("error: /proc: cannot be written (")


def test_two_processes_are_launched_and_told_to_stop(tiny_checkpoint, tmp_path):
    """launch/gpu_2x.sh as it is, but for gloo in place of NCCL."""
    workdir = tmp_path / "run"
    settings = SETTINGS | {"model.path": tiny_checkpoint, "max_steps": 2000}
    arguments = [f"--config.{name}={value}" for name, value in settings.items()]
    running = subprocess.Popen(
        ["bash", LAUNCH / "gpu_2x.sh", "quickstart", workdir, *arguments],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = workdir / "metrics.jsonl"
    while running.poll() is None and not (metrics.exists() and len(metrics_of(workdir)) > 1):
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=600)
    assert running.returncode == 42, said
    steps = len(metrics_of(workdir))
    assert f"stopped at step {steps}; run the same command again to go on" in said
    for check in ("jax ", "2 device(s) of 2 process(es)", "GB/s", "GB free", " s apart"):
        assert check in said
    assert {path.name for path in (tmp_path / "run.logs").iterdir()} == {"0.log", "1.log"}


def test_where_one_process_dies_the_other_is_not_waited_for(tmp_path):
    """Dead before it has joined: jax gives it five minutes."""
    running = subprocess.Popen(
        ["bash", LAUNCH / "gpu_2x.sh", "quickstart", tmp_path / "run"],
        env=os.environ | {"GRACE": "1"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while not (both := [pid for pid in children.read_text().split() if is_preflight(pid)]):
            time.sleep(0.02)
        os.kill(int(both[0]), signal.SIGKILL)
        running.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 128 + signal.SIGKILL


def is_preflight(pid):
    with suppress(FileNotFoundError, ProcessLookupError):
        return b"preflight.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
