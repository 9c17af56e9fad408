"""Names of other packages that are used and have no promise to stay: which file to mend when one is gone."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ray._private import services

from tecogan_dist.cluster.embedded import ON_ONE_MACHINE

os.environ.setdefault("DS_ACCELERATOR", "cpu" if not torch.cuda.is_available() else "cuda")

CORE = "tecogan_dist/cluster/internals/ray_core.py"
JOBS = "tecogan_dist/cluster/internals/ray_jobs.py"
STOPPING = "tecogan_dist/cluster/stopping.py"
DATA = "tecogan_dist/cluster/internals/ray_data.py"
TRAIN = "tecogan_dist/cluster/internals/ray_train.py"
TUNE = "tecogan_dist/cluster/internals/ray_tune.py"
SWEEP = "tecogan_dist/tuning/sweep.py"
LEDGER = "tecogan_dist/tuning/ledger.py"
DEEPSPEED = "tecogan_dist/training/engines/deepspeed.py"
MOMENTS = "tecogan_dist/training/engines/moments.py"
COMPILING = "tecogan_dist/training/compiling.py"
COMPILED_CACHE = "tecogan_dist/training/compiled_cache.py"
PT2 = "tecogan_dist/upscaling/export/pt2_file.py"
STREAM = "tecogan_dist/data/stream/stream.py"
ERRORS = "tecogan_dist/cluster/ray_errors.py"
NAMES = [
    ("ray.data._internal.cluster_autoscaler", "get_or_create_autoscaling_coordinator", DATA),
    ("ray.data._internal.execution.execution_callback", "ExecutionCallback.on_execution_step", DATA),
    ("ray.data._internal.stats", "get_or_create_stats_actor", DATA),
    ("ray.data._internal.usage.actor", "get_or_create_usage_collection_actor", DATA),
    ("ray.data", "DataContext", STREAM),
    ("ray.train._internal.utils", "get_address_and_port", TRAIN),
    ("ray.train.backend", "Backend.share_cuda_visible_devices", TRAIN),
    ("ray.train.constants", "DEFAULT_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", TRAIN),
    ("ray.train.constants", "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", TRAIN),
    ("ray.train.torch.config", "TorchConfigContextManager", TRAIN),
    ("ray.train.torch.config", "_set_torch_distributed_env_vars", TRAIN),
    ("ray.train.torch.config", "_setup_torch_process_group", TRAIN),
    ("ray.train.torch.config", "_shutdown_torch", TRAIN),
    ("ray.train.v2._internal.callbacks.datasets", "DatasetsCallback", TRAIN),
    ("ray.train.v2._internal.callbacks.placement_group_callback", "PlacementGroupCleanerCallback", TRAIN),
    ("ray.train.v2._internal.exceptions", "WorkerGroupStartupTimeoutError", TRAIN),
    ("ray.train.v2._internal.exceptions", "WorkerHealthCheckFailedError", TRAIN),
    ("ray.train.v2._internal.execution.worker_group.state", "_shutdown_sync_actor", TRAIN),
    ("ray.train.v2._internal.execution.worker_group.worker_group", "SynchronizationActor", TRAIN),
    ("ray.train.v2._internal.util", "TrainingFramework.TORCH", TRAIN),
    ("ray.train.v2.api.data_parallel_trainer", "DataParallelTrainer._create_default_callbacks", TRAIN),
    ("ray.train.v2._internal.execution.callback", "ControllerCallback.after_controller_state_update", TRAIN),
    ("ray.train.v2._internal.execution.controller.state", "PreemptingState", TRAIN),
    ("ray.train.v2._internal.execution.controller.state", "ReschedulingState", TRAIN),
    ("ray.train.v2._internal.execution.controller.state", "ResizingState", TRAIN),
    ("ray._private.auto_init_hook", "enable_auto_connect", CORE),
    (
        "ray._private.authentication.authentication_token_setup",
        "maybe_enable_token_auth_if_token_available",
        CORE,
    ),
    (
        "ray._private.authentication.grpc_authentication_client_interceptor",
        "_get_authentication_metadata_tuple",
        CORE,
    ),
    ("ray._private.authentication.authentication_token_setup", "AuthenticationTokenLoader", CORE),
    ("ray._private.authentication.authentication_token_setup", "Config", CORE),
    ("ray._private.ray_constants", "ENABLE_RAY_CLUSTER", CORE),
    ("ray._private.ray_constants", "env_integer", TRAIN),
    ("ray._common.tls_utils", "load_certs_from_env", CORE),
    ("ray._common.utils", "get_default_system_temp_dir", CORE),
    ("ray._private.services", "canonicalize_bootstrap_address", CORE),
    ("ray._private.ray_logging", "global_worker_stdstream_dispatcher.remove_handler", CORE),
    ("ray._private.utils", "set_sigterm_handler", CORE),
    ("ray._private.node", "Node.dead_processes", CORE),
    ("ray._private.node", "Node.start_api_server", CORE),
    ("ray._private.node", "Node.start_monitor", CORE),
    ("ray._private.worker", "_global_node", CORE),
    ("yt_dlp.postprocessor.ffmpeg", "FFmpegPostProcessor._ffmpeg_location", "tecogan_dist/data/prepare/fetching.py"),
    ("yt_dlp.networking._urllib", "UrllibRH._create_instance", "tecogan_dist/data/prepare/fetching.py"),
    ("yt_dlp.networking._urllib", "HTTPHandler._make_conn_class", "tecogan_dist/data/prepare/fetching.py"),
    ("yt_dlp.networking._urllib", "RedirectHandler.redirect_request", "tecogan_dist/data/prepare/fetching.py"),
    ("yt_dlp.globals", "plugin_dirs", "tecogan_dist/data/prepare/fetching.py"),
    ("ray.job_submission", "JobSubmissionClient._do_request", JOBS),
    ("ray.tune.execution.tune_controller", "TuneController.get_live_trials", TUNE),
    ("ray.tune.experiment", "Trial.is_finished", TUNE),
    ("ray.tune.experiment", "Trial.error_file", LEDGER),
    ("ray.tune.schedulers.pb2", "PB2.on_trial_result", TUNE),
    ("ray.tune.schedulers", "PopulationBasedTraining.on_trial_error", TUNE),
    ("deepspeed.ops", "__compatible_ops__", DEEPSPEED),
    ("deepspeed", "zero.GatheredParameters", DEEPSPEED),
    ("deepspeed.utils", "safe_get_full_optimizer_state", MOMENTS),
    ("deepspeed.utils", "safe_set_full_optimizer_state", MOMENTS),
    ("deepspeed.utils", "safe_set_local_optimizer_state", MOMENTS),
    (
        "deepspeed.runtime.zero.stage_1_and_2",
        "DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state",
        MOMENTS,
    ),
    ("torch._dynamo.utils", "counters", COMPILING),
    ("torch._functorch.config", "donated_buffer", COMPILING),
    ("torch._inductor.codecache", "_HEADER_DIR", COMPILED_CACHE),
    ("torch._inductor.codecache", "_HEADER_LOCK_DIR", COMPILED_CACHE),
    ("torch._inductor.runtime.cache_dir_utils", "default_cache_dir", COMPILED_CACHE),
    ("torch.compiler", "skip_guard_on_globals_unsafe", COMPILING),
    ("torch.distributed._functional_collectives", "all_gather_tensor", "tecogan_dist/models/discriminator.py"),
    ("torch.distributed._functional_collectives", "all_reduce", "tecogan_dist/models/discriminator.py"),
    ("torch.distributed._functional_collectives", "wait_tensor", "tecogan_dist/models/discriminator.py"),
    ("torch._inductor", "aoti_compile_and_package", PT2),
    ("torch._inductor", "aoti_load_package", PT2),
    ("torch._inductor.cpp_builder", "get_cpp_compiler", PT2),
    ("torch._inductor.exc", "CppCompileError", PT2),
    ("torch._inductor.exc", "InvalidCxxCompiler", PT2),
    ("torch.fx.experimental._config", "backed_size_oblivious", "tecogan_dist/upscaling/export/step.py"),
    ("wandb_workspaces.workspaces", "Workspace._to_model", "tecogan_dist/tracking/dashboard.py"),
    ("torch", "_foreach_norm", "tecogan_dist/training/engines/pair.py"),
    ("torch", "_foreach_copy_", DEEPSPEED),
    ("torch.utils._python_dispatch", "TorchDispatchMode._should_skip_dynamo", "tecogan_dist/training/operations.py"),
    ("torch", "_foreach_lerp_", "tecogan_dist/training/engines/ema.py"),
    ("torch.cuda.memory", "_record_memory_history", "tecogan_dist/training/profiling.py"),
    ("torch.cuda.memory", "_dump_snapshot", "tecogan_dist/training/profiling.py"),
]
WORDS = [
    ("ray._private.worker", ["ray._private.utils.set_sigterm_handler(sigterm_handler)"], CORE),
    ("ray._private.node", ["self._webui_url", "self.start_monitor()", "self.start_api_server("], CORE),
    ("ray.train.v2._internal.execution.worker_group.state", ["        _shutdown_sync_actor(self.sync_actor)"], TRAIN),
    (
        "ray.train.v2._internal.execution.worker_group.worker_group",
        ["sync_actor = SynchronizationActor.options("],
        TRAIN,
    ),
    ("ray.train.v2._internal.constants", ['"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"'], "tecogan_dist/cluster/embedded.py"),
    (
        "ray.train.torch.config",
        ["worker_group.execute(_set_torch_distributed_env_vars)", "destroy_process_group=len(worker_group) > 1"],
        TRAIN,
    ),
    ("ray._private.workers.default_worker", ["args.worker_preload_modules.split"], "tecogan_dist/cluster/embedded.py"),
    ("torch._compile", ['getattr(fn, "__dynamo_disable", None)'], "tecogan_dist/training/engines/optimizers.py"),
    (
        "torch.optim.optimizer",
        ["functools.update_wrapper(_use_grad, func)"],
        "tecogan_dist/training/engines/optimizers.py",
    ),
    ("wandb_workspaces.workspaces.interface", ["_internal_name"], "tecogan_dist/tracking/dashboard.py"),
    ("deepspeed.runtime.engine", ["micro_steps", "skipped_steps"], DEEPSPEED),
    ("deepspeed.runtime.zero.stage3", ["fp32_partitioned_groups_flat"], MOMENTS),
    ("deepspeed.runtime.zero.partition_parameters", ["ds_tensor", "ds_shape"], MOMENTS),
    ("ray.data.context", ["custom_execution_callback_classes"], STREAM),
    ("ray.train.v2.api.exceptions", ["worker_failures", "controller_failure"], ERRORS),
    ("ray.train.v2._internal.exceptions", ["health_check_failure"], ERRORS),
    (
        "ray.train.v2._internal.execution.controller.state",
        ["scaling_decision", "training_failed_error"],
        "tecogan_dist/training/ray/failures.py",
    ),
    (
        "ray.tune.schedulers.pbt",
        [
            "self._trial_state",
            "self._next_perturbation_sync",
            "self._time_attr",
            "self._synch",
            "self.last_train_time",
            "self.last_score",
            "self.last_result",
        ],
        TUNE,
    ),
    ("ray.tune.schedulers.pbt", ["random.random()", "random.choice("], TUNE),
    ("ray.tune.schedulers.pb2", ["np.random."], TUNE),
    ("ray.tune.utils.callback", ['os.environ.get("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "0") != "1"'], SWEEP),
    ("ray.tune.experimental.output", ['os.environ.get("RAY_AIR_NEW_OUTPUT", "1") == "0"'], SWEEP),
    ("ray._private.worker", ['"RAY_IGNORE_UNHANDLED_ERRORS" in os.environ'], SWEEP),
    ("ray.dashboard.modules.dashboard_sdk", ["self._server_ray_version = running_ray_version", "**kwargs,"], JOBS),
    ("ray.dashboard.utils", ["ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE"], JOBS),
    (
        "ray.dashboard.modules.job.job_supervisor",
        ['"RAY_JOB_STOP_WAIT_TIME_S"', "RAY_JOB_CONFIG_JSON_ENV_VAR: "],
        STOPPING,
    ),
    (
        "ray.dashboard.modules.job.job_manager",
        ['f"Job with submission_id {submission_id} already exists. '],
        "tecogan_dist/cluster/jobs.py",
    ),
    ("ray._common.constants", ['HEAD_NODE_RESOURCE_NAME = NODE_ID_PREFIX + "__internal_head__"'], SWEEP),
]
"""Attributes that objects get when they are made, and words that are compared with: looked for in a module's text."""


@pytest.mark.parametrize(("module", "name", "file"), NAMES)
def test_private_names_are_there(module: str, name: str, file: str) -> None:
    found = importlib.import_module(module)
    for step in name.split("."):
        assert hasattr(found, step), f"{module} has no {name} any more: mend {file}"
        found = getattr(found, step)


@pytest.mark.parametrize(("module", "names", "file"), WORDS)
def test_private_attributes_are_there(module: str, names: list[str], file: str) -> None:
    path = importlib.import_module(module).__file__
    assert path is not None
    with open(path, encoding="utf-8") as source:
        text = source.read()
    for name in names:
        assert name in text, f"{module} does not set {name} any more: mend {file}"


def test_rays_settings_are_there() -> None:
    """Those that its processes read from the environment, and would ignore if they were called otherwise."""
    program = Path(services.RAYLET_EXECUTABLE).read_bytes()
    for name in ON_ONE_MACHINE:
        if name.startswith("RAY_raylet_"):
            assert name.encode() in program, f"Ray has no {name} any more: mend tecogan_dist/cluster/embedded.py"


def test_decoding_processes_import_no_torch() -> None:
    """What the contract of imports cannot see: that Ray Data's own modules bring none."""
    code = "import sys; import tecogan_dist.data.stream.decoding, tecogan_dist.data.stream.scheduling; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
