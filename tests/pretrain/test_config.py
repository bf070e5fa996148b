"""Reading configs: bases, overrides, and every mistake by name."""

import contextlib
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fvcore.common.config import CfgNode

from pretrain.config import EFFECTS, RULES, get_cfg, load_pretrain_config
from pretrain.run.settings import ConfigError, check_same_run, leaves, load_config

CONFIGS = sorted(Path(__file__).resolve().parents[2].glob("pretrain/configs/*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="experiment.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_file


def test_load_config__child_overrides_base_and_command_line_overrides_both(write):
    write("SOLVER: {EPOCHS: 5, BASE_LR: 0.2}\nDATA: {ROOT: here}\n", "base.yaml")
    child = write("_BASE_: base.yaml\nSOLVER: {EPOCHS: 7}\n")
    cfg = load_config(get_cfg(), child, ["SOLVER.STEPS", "(3, 6)", "DATA.ROOT", "there"])
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS, cfg.DATA.ROOT) == (7, 0.2, (3, 6), "there")


def test_load_config__leaves_the_defaults_alone():
    defaults = get_cfg()
    load_config(defaults, None, ["SOLVER.EPOCHS", "1"])
    assert defaults == get_cfg()


@pytest.mark.parametrize("text, value", [("1", 1.0), ("4e-3", 0.004), ("0.5", 0.5)])
def test_load_config__numbers_where_a_float_is_expected(text, value):
    result = load_config(get_cfg(), None, ["SOLVER.BASE_LR", text]).SOLVER.BASE_LR
    assert result == value
    assert type(result) is float


def test_load_config__a_string_key_takes_text_that_reads_as_a_number():
    assert load_config(get_cfg(), None, ["DATA.ROOT", "2012"]).DATA.ROOT == "2012"


def test_load_config__a_key_whose_default_is_none_takes_any_plain_value():
    assert load_config(CfgNode({"DECAY": None}), None, ["DECAY", "0.5"]).DECAY == 0.5


@pytest.mark.parametrize("content, message", [
    ("SOLVER: {EPOCS: 5}", r"unknown config key SOLVER\.EPOCS; did you mean SOLVER\.EPOCHS\?"),
    ("SOLVER: {EPOCHS: {A: 5}}", r"SOLVER\.EPOCHS expects int \(such as 300\), but got {'A': 5}"),
    ("SOLVER: 5", r"SOLVER is a group of keys \(EPOCHS, .*\), but got the value 5"),
    ("SOLVER: {EPOCHS: many}", r"SOLVER\.EPOCHS expects int \(such as 300\), but got 'many'"),
    ("SOLVER: {EPOCHS: true}", r"SOLVER\.EPOCHS expects int \(such as 300\), but got True"),
    ("SOLVER: {NESTEROV: 1}", r"SOLVER\.NESTEROV expects bool \(such as True\), but got 1"),
    ("SOLVER: {EPOCHS: 5", r"line \d: not valid YAML"),
    ("- a\n- b", r"expected a mapping of config keys"),
    ("", r"expected a mapping of config keys"),
])  # fmt: skip
def test_load_config__refuses_a_bad_file_by_name(write, content, message):
    path = write(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        load_config(get_cfg(), path)


@pytest.mark.parametrize("content, message", [
    (b"SOLVER: {EPOCHS: 5}\nSOLVER: {BASE_LR: 0.5}\n", "key SOLVER stands in it twice, in line 1 and in line 2"),
    (b"SOLVER: {EPOCHS: 5,\n EPOCHS: 6}", "key SOLVER.EPOCHS stands in it twice, in line 1 and in line 2"),
    (b"SOLVER:\n  EPOCHS: 5\nSOLVER.EPOCHS: 6\n", "key SOLVER.EPOCHS stands in it twice, in line 2 and in line 3"),
    (b"SEED: 1\nSEED: 1\nSOLVER: {GAMMA: 1,\n GAMMA: 1}\n", "key SEED .* line 1 and in line 2 .as are 1 more keys"),
    (b"\x80\x02ckpt", "line 1: byte 0x80 at column 1 is not UTF-8; .*expected a YAML file"),
    ("SEED: 1".encode("utf-16"), "line 1: the file is UTF-16; save it as UTF-8 .expected a YAML file"),
    (b"PK\x03\x04", "not valid YAML"),
    (b"PK\x00", "a NUL byte; .*expected a YAML file"),
    (b"SEED: !!int x", "not valid YAML"),
    (b"SEED: 2001-99-99", "not valid YAML"),
    (b"a: &a\n  b: *a", "nested too deeply"),
    pytest.param(b"[" * 3000, "nested too deeply", id="brackets"),
    (b"_BASE_: 5", "_BASE_ is 5; expected a file, or a list of files"),
    (b"_BASE_: experiment.yaml", "_BASE_ goes round in a circle: .*experiment.yaml -> .*experiment.yaml"),
])  # fmt: skip
def test_load_config__refuses_by_name_what_would_be_read_as_something_else(tmp_path, content, message):
    path = tmp_path / "experiment.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        load_config(get_cfg(), path)


def test_load_config__bases_in_a_circle_are_listed(write):
    first = write("_BASE_: b.yaml", "a.yaml")
    write("_BASE_: ./a.yaml", "b.yaml")
    with pytest.raises(
        ValueError, match=r"b.yaml: _BASE_ goes round in a circle: \S*a.yaml -> \S*b.yaml -> \S*a.yaml$"
    ):
        load_config(get_cfg(), first)


def test_load_config__one_base_reached_twice_is_no_circle(write):
    write("SOLVER: {EPOCHS: 5}", "root.yaml")
    write("_BASE_: root.yaml\nSEED: 3", "left.yaml")
    write("_BASE_: root.yaml\nSOLVER: {GAMMA: 0.5}", "right.yaml")
    cfg = load_config(get_cfg(), write("_BASE_: [left.yaml, right.yaml]\nSEED: 4"))
    assert (cfg.SOLVER.EPOCHS, cfg.SEED, cfg.SOLVER.GAMMA) == (5, 4, 0.5)


def test_load_config__merge_keys_and_a_byte_order_mark_are_yaml(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_bytes(b"\xef\xbb\xbfSOLVER: {<<: {EPOCHS: 5, GAMMA: 0.5}, EPOCHS: 6}")
    cfg = load_config(get_cfg(), path)
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.GAMMA) == (6, 0.5)


def test_load_config__random_text_is_refused_as_a_value_error(tmp_path):
    """Whatever a file holds, it is read or refused with its name, in a moment."""
    source = (CONFIGS[0].parent / "imagenet_r50_saliencymix.yaml").read_bytes() + b"SOLVER: {STEPS: [1, 2]}\n"
    rng, path = random.Random(0), tmp_path / "fuzz.yaml"
    pieces = [
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"- ",
        b"&a ",
        b"*a",
        b"!!int ",
        b"!!binary ",
        b"<<: ",
        b"\n",
        b"\x00",
        b"?",
        b"|",
    ]
    for _ in range(400):
        text = bytearray(source)
        for _ in range(rng.randint(1, 5)):
            place = rng.randrange(len(text))
            text[place : place + rng.randint(0, 4)] = rng.choice([*pieces, rng.randbytes(2)])
        path.write_bytes(text)
        with contextlib.suppress(ConfigError):
            try:
                load_pretrain_config(path)
            except (ValueError, FileNotFoundError) as error:
                if isinstance(error, ConfigError) or str(tmp_path) not in str(error):
                    raise


def test_load_config__home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    cfg = load_pretrain_config(None, ["OUTPUT_DIR", "~/x", "DATA.ROOT", "~/data"])
    assert (cfg.OUTPUT_DIR, cfg.DATA.ROOT) == ("/home/somebody/x", "/home/somebody/data")


def test_load_config__refuses_a_missing_file():
    with pytest.raises(FileNotFoundError, match=r"config file nowhere\.yaml does not exist"):
        load_config(get_cfg(), "nowhere.yaml")


def test_load_config__refuses_a_missing_base(write):
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        load_config(get_cfg(), write("_BASE_: absent.yaml"))


@pytest.mark.parametrize("opts, message", [
    (["SOLVER.EPOCHS"], r"command line: expected KEY VALUE pairs, but 'SOLVER\.EPOCHS' has no value"),
    (["SOLVER.EPOCH", "5"], r"command line: unknown config key SOLVER\.EPOCH; did you mean SOLVER\.EPOCHS\?"),
    (["SOLVER.EPOCHS", "5.5"], r"command line: SOLVER\.EPOCHS expects int \(such as 300\), but got 5\.5"),
    (["SOLVER.EPOCHS.MORE", "5"], r"command line: unknown config key SOLVER\.EPOCHS\.MORE"),
    (["OUTPUT_DIR", "run", "--resume", "SOLVER.EPOCHS", "60"],
     r"command line: the option --resume stands among the KEY VALUE pairs; options go before them"),
    (["OUTPUT_DIR", "--resume"], r"the option --resume stands among the KEY VALUE pairs"),
    (["SOLVER.EPOCHS=60"], r"'SOLVER\.EPOCHS=60' is no pair; write SOLVER\.EPOCHS 60, with a space in place of the ="),
    (["SOLVER.STEPS", "(" * 999], r"SOLVER\.STEPS expects tuple"),
])  # fmt: skip
def test_load_config__refuses_a_bad_override(opts, message):
    with pytest.raises(ValueError, match=message):
        load_config(get_cfg(), None, opts)


@pytest.mark.parametrize("opts, message", [
    (["MODEL.ARCH", "resnet51"], r"MODEL\.ARCH is 'resnet51'; expected one of resnet18"),
    (["MIXING.METHOD", "saliency"], r"MIXING\.METHOD is 'saliency'; expected one of baseline"),
    (["MIXING.ALPHA", "0"], r"MIXING\.ALPHA is 0\.0; expected a finite number above 0"),
    (["MIXING.PROB", "1.5"], r"MIXING\.PROB is 1\.5; expected within 0 and 1"),
    (["SOLVER.BASE_LR", "nan"], r"SOLVER\.BASE_LR expects float"),
    (["SOLVER.STEPS", "(5, 3)"], r"SOLVER\.STEPS is \(5, 3\); expected increasing epochs"),
    (["DATA.CROP_SCALE", "(0.5, 0.1)"], r"DATA\.CROP_SCALE is .*; expected 0 < low <= high <= 1"),
    (["DATA.PIXEL_STD", "(1.0, 1.0, 0.0)"], r"DATA\.PIXEL_STD is .*; expected three numbers above 0"),
    (["MODEL.DROP_BLOCK_SIZE", "4"], r"MODEL\.DROP_BLOCK_SIZE is 4; expected an odd number of at least 1"),
    (["MODEL.DROPOUT", "0.3"], r"MODEL\.DROPOUT is 0\.3, but only wide_resnet28_10 has any"),
    (["MODEL.ARCH", "wide_resnet28_10", "MIXING.METHOD", "dropblock"], r"METHOD dropblock is not defined for wide_res"),
    (["COMPILE", "True", "MIXING.METHOD", "manifold_mixup"], r"COMPILE does not work with MIXING\.METHOD manifold_mix"),
    (["DATA.NUM_WORKERS", "-2"], r"NUM_WORKERS is -2; expected -1 \(the cores left beside training\) or at least 0"),
    (["DATA.DOWNLOAD", "True"], r"DATA\.DOWNLOAD is for DATA\.DATASET cifar10 and cifar100"),
    (["DATA.TRAIN_SIZE", "-1"], r"DATA\.TRAIN_SIZE is -1; expected at least 0"),
    (["DATA.TRIVIAL_AUGMENT", "wide"], r"DATA\.TRIVIAL_AUGMENT expects bool \(such as False\), but got 'wide'"),
    (["DATA.EVAL_RESIZE", "223"], r"DATA\.EVAL_RESIZE is 223; expected at least DATA\.IMAGE_SIZE, 224"),
    (["SOLVER.MOMENTUM", "0.0"], r"SOLVER\.NESTEROV is True, but SOLVER\.MOMENTUM is 0; set one of the two"),
    (["DATA.ERASE_PROB", "1.1"], r"DATA\.ERASE_PROB is 1\.1; expected within 0 and 1"),
    (["DATA.ERASE_PROB", "0.1", "DATA.PIXEL_MEAN", "(-1.0, 0.0, 0.0)"],
     r"ERASE_PROB paints with DATA\.PIXEL_MEAN, which is \(-1\.0, 0\.0, 0\.0\); expected levels within 0 and 255"),
    (["DATA.ERASE_PROB", "0.1", "DATA.PIXEL_MEAN", "(0.0, 0.0, 255.5)"],
     r"ERASE_PROB paints with DATA\.PIXEL_MEAN, which is \(0\.0, 0\.0, 255\.5\); expected levels within 0 and 255"),
    (["SOLVER.LABEL_SMOOTHING", "1.0"], r"SOLVER\.LABEL_SMOOTHING is 1\.0; expected at least 0 and below 1"),
    (["SOLVER.LABEL_SMOOTHING", "-0.1"], r"SOLVER\.LABEL_SMOOTHING is -0\.1; expected at least 0 and below 1"),
    (["SOLVER.SCHEDULE", "linear"], r"SOLVER\.SCHEDULE is 'linear'; expected one of steps, cosine"),
    (["SOLVER.WARMUP_FACTOR", "0"], r"SOLVER\.WARMUP_FACTOR is 0\.0; expected above 0 and at most 1"),
    (["SOLVER.WARMUP_EPOCHS", "-1"], r"SOLVER\.WARMUP_EPOCHS is -1; expected at least 0"),
    (["SOLVER.WARMUP_EPOCHS", "5", "SOLVER.EPOCHS", "5"],
     r"SOLVER\.WARMUP_EPOCHS is 5, but the run has SOLVER\.EPOCHS 5; expected less"),
    (["SOLVER.WARMUP_EPOCHS", "5", "SOLVER.WARMUP_ITERS", "9"],
     r"SOLVER\.WARMUP_EPOCHS is 5 and SOLVER\.WARMUP_ITERS 9; a run has one warm-up, set the other to 0"),
    (["SOLVER.WEIGHT_DECAY_NORM", "-1"], r"DECAY_NORM is -1; expected None \(as other weights\) or a finite number"),
    (["SOLVER.WEIGHT_DECAY_BIAS", "none"], r"DECAY_BIAS is 'none'; expected None \(as other weights\) or a finite"),
    (["SOLVER.EMA_DECAY", "1.0"], r"SOLVER\.EMA_DECAY is 1\.0; expected at least 0 and below 1"),
    (["PRECISION", "fp16"], r"PRECISION is 'fp16'; expected one of float32, bfloat16, float16"),
    (["SOLVER.BATCH_SIZE", "0"], r"SOLVER\.BATCH_SIZE is 0; expected at least 1"),
    (["MIXING.STYLE", "salient"], r"MIXING\.STYLE is 'salient'; expected one of salient_to_corresponding, "),
    (["MIXING.SALIENCY", "bar"], r"MIXING\.SALIENCY is 'bar'; expected one of fine_grained, .*, basnet"),
    (["MIXING.SCOPE", "pixel"], r"MIXING\.SCOPE is 'pixel'; expected one of image, batch"),
    (["MIXING.PLACEMENT", "x"], r"MIXING\.PLACEMENT is 'x'; expected one of clip, shift"),
    (["MIXING.PATCH", "salient"], r"MIXING\.PATCH is 'salient'; expected empty \(.*\) or one of uniform, resized, sal"),
    (["MIXING.LABEL", "pixels"], r"MIXING\.LABEL is 'pixels'; expected one of area, absolute, relative"),
    (["MIXING.METHOD", "cutmix", "MIXING.PATCH", "resized"],
     r"PATCH is resized, but MIXING\.METHOD cutmix is the name of PATCH uniform with LABEL area; set .* saliencymix"),
    (["MIXING.METHOD", "resizemix", "MIXING.LABEL", "absolute"],
     r"LABEL is absolute, but MIXING\.METHOD resizemix is the name of PATCH resized with LABEL area"),
    (["MIXING.METHOD", "mixup", "MIXING.LABEL", "relative"], r"LABEL is relative, but MIXING\.METHOD mixup has no su"),
    (["MIXING.PATCH", "uniform"], r"PATCH is uniform, but MIXING\.METHOD baseline has no such key"),
    (["MIXING.METHOD", "saliencymix", "MIXING.PATCH", "uniform", "MIXING.STYLE", "salient_to_salient"],
     r"MIXING\.STYLE is salient_to_salient, but MIXING\.PATCH uniform: both say where the patch is"),
    (["MIXING.METHOD", "saliencymix", "MIXING.PATCH", "resized", "MIXING.LABEL", "relative"],
     r"MIXING\.LABEL relative has no meaning for MIXING\.PATCH resized: .*; set LABEL area or absolute"),
    (["MIXING.METHOD", "saliencymix", "MIXING.SALIENCY", "basnet"], r"MIXING\.BASNET_WEIGHTS is empty"),
    (["SEED", str(2**63)], r"SEED is 9223372036854775808; expected a whole number from 0 to 2\*\*63 - 1"),
])  # fmt: skip
def test_load_pretrain_config__refuses_bad_values(opts, message):
    with pytest.raises(ValueError, match=message):
        load_pretrain_config(None, opts)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs__load_and_name_a_command_that_exists(path):
    load_pretrain_config(path)
    head = path.read_text()
    assert "# run: python tools/" in head
    assert "expected" in head


@pytest.mark.parametrize("opts", ["METHOD cutmix PATCH uniform", "METHOD resizemix PATCH resized LABEL area",
    "METHOD saliencymix STYLE salient_to_salient PATCH salient_to_salient LABEL relative",
    "METHOD saliencymix PATCH resized LABEL absolute"])  # fmt: skip
def test_load_pretrain_config__takes_what_does_not_contradict_itself(opts):
    load_pretrain_config(None, [f"MIXING.{word}" if word.isupper() else word for word in opts.split()])


def test_check_same_run__names_every_changed_key_and_lets_paths_differ():
    before = get_cfg()
    now = load_config(get_cfg(), None, ["SOLVER.BASE_LR", "0.2", "SEED", "1", "DATA.ROOT", "moved"])
    message = r"SEED was 0, is 1; SOLVER\.BASE_LR was 0\.1, is 0\.2\); set these keys back"
    with pytest.raises(ValueError, match=message):
        check_same_run(before.dump(), now, get_cfg(), EFFECTS)
    moved = load_config(get_cfg(), None, ["DATA.ROOT", "moved", "DEVICE", "cpu", "CHANNELS_LAST", "True"])
    check_same_run(before.dump(), moved, get_cfg(), EFFECTS)


def test_check_same_run__a_key_that_was_not_there_yet_had_its_first_default():
    saved = yaml.safe_load(get_cfg().dump())
    del saved["SOLVER"]["EMA_DECAY"], saved["MODEL"]["DROP_BLOCK_SIZE"]
    check_same_run(yaml.safe_dump(saved), get_cfg(), get_cfg(), EFFECTS)
    changed = load_config(get_cfg(), None, ["SOLVER.EMA_DECAY", "0.9"])
    with pytest.raises(ValueError, match=r"SOLVER\.EMA_DECAY was 0\.0, is 0\.9"):
        check_same_run(yaml.safe_dump(saved), changed, get_cfg(), EFFECTS)
    later_default = replace(EFFECTS, first_defaults={"MODEL.DROP_BLOCK_SIZE": 5})
    with pytest.raises(ValueError, match=r"MODEL\.DROP_BLOCK_SIZE was 5, is 7"):
        check_same_run(yaml.safe_dump(saved), get_cfg(), get_cfg(), later_default)


def test_load_pretrain_config__says_everything_at_once_up_to_ten():
    bad = ["MODEL.ARCH", "x", "SOLVER.EPOCHS", "0", "MIXING.METHOD", "y"]
    with pytest.raises(ConfigError) as caught:
        load_pretrain_config(None, bad)
    assert [fault.split()[0] for fault in caught.value.faults] == ["MODEL.ARCH", "MIXING.METHOD", "SOLVER.EPOCHS"]
    with pytest.raises(ConfigError) as caught:
        load_pretrain_config(None, ["SOLVER.EPOCH", "5", "SOLVER.GAMMA", "no", "SEED", "-1"])
    assert [fault.split(": ")[0] for fault in caught.value.faults[:2]] == ["command line"] * 2
    assert caught.value.faults[2].startswith("SEED is -1")
    below = [key for key in RULES if RULES[key].expected.startswith("at least") and key != "MODEL.DROPOUT"]
    negative = [word for key in below for word in (key, "-1")]
    with pytest.raises(ConfigError) as caught:
        load_pretrain_config(None, negative)
    assert len(caught.value.faults) == 11
    assert caught.value.faults[-1] == f"and {len(below) - 10} more faults"


def test_effects__name_keys_that_exist_once():
    known = [key for key, _ in leaves(get_cfg())]
    named = [*EFFECTS.place, *EFFECTS.speed, *EFFECTS.test]
    assert set(named) <= set(known)
    assert len(named) == len(set(named))
    assert set(RULES) <= set(known)


def test_written_config__reads_back_equal(tmp_path):
    cfg = load_pretrain_config(None, ["SOLVER.STEPS", "(1, 2)"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert load_pretrain_config(tmp_path / "config.yaml") == cfg
    assert "_BASE_" not in yaml.safe_load(cfg.dump())


def test_first_defaults__are_those_of_today_or_are_declared():
    """A key that a run or stage lacks had its first default; whoever changes a default declares the old one."""
    first = yaml.safe_load((Path(__file__).resolve().parents[1] / "first_defaults.yaml").read_text())["pretrain"]
    assert EFFECTS.first_values(get_cfg()) == first
