"""On how many processes, and on which machines, a stage runs."""


def test_make_plan__several_gpus(plan_of):
    command = {stage.name: list(stage.command) for stage in plan_of(["GPUS", "4"]).stages}
    assert command["cutmix/seed0/pretrain"][1:6] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "4",
    ]
    assert "--nproc-per-node" in command["cutmix/seed0/fine_tune"]
    assert "--num-gpus" not in command["cutmix/seed0/fine_tune"]
    assert "--nproc-per-node" not in command["cutmix/seed0/evaluate"]
    detectron2 = {
        stage.name: list(stage.command) for stage in plan_of(["GPUS", "4", "DETECTION.ENGINE", "detectron2"]).stages
    }
    assert "--nproc-per-node" not in detectron2["cutmix/seed0/fine_tune"]
    assert detectron2["cutmix/seed0/fine_tune"][detectron2["cutmix/seed0/fine_tune"].index("--num-gpus") + 1] == "4"
    assert "--num-gpus" not in detectron2["cutmix/seed0/evaluate"]
    (one,) = (
        stage.command
        for stage in plan_of(["DETECTION.ENGINE", "detectron2"]).stages
        if stage.name == "cutmix/seed0/fine_tune"
    )
    assert "--num-gpus" not in one


def test_make_plan__several_machines_are_as_many_processes_of_one(plan_of):
    """Where they stand decides nothing: the same stages, by another command."""
    one, two = (plan_of(opts).stages for opts in (["GPUS", "4"], ["GPUS", "2", "NODES", "2"]))
    pretrain = [[stage for stage in stages if stage.kind == "pretrain"] for stages in (one, two)]
    assert [stage.folder for stage in pretrain[0]] == [stage.folder for stage in pretrain[1]]
    assert {(stage.processes, stage.nodes) for stage in pretrain[1]} == {(4, 2)}
    command = pretrain[1][0].command
    assert command[0] == "srun"
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} < set(command)
    assert command[command.index("--nproc-per-node") + 1] == "2"
    others = {stage.kind: (stage.processes, stage.nodes) for stage in two if stage.kind in ("fine_tune", "evaluate")}
    assert others == {"fine_tune": (2, 1), "evaluate": (1, 1)}
