"""Which levels only give weights back, and what is said of them; engine/test_grids.py packs."""

from __future__ import annotations

from dataclasses import replace

from lwq_ui.core.lossless import NOTHING_BACK, GivenBack, given_back, origin_of
from lwq_ui.core.schema import LayerSpec, ModelInfo, WeightSpec
from lwq_ui.engine.quantizers import QUANTIZERS, quantizer_named

PLAIN, GROUPS, CLIP = map(quantizer_named, ("quanto", "quanto:group=32", "quanto-clip:group=32"))


def info(*columns: int, grid: str | None = "Q4_1", dtype: str = "bfloat16") -> ModelInfo:
    layer = LayerSpec(tuple(WeightSpec(f"w{n}", 64, n) for n in columns), 0)
    names = ("model", None, "f" * 64, "LlamaForCausalLM", dtype)
    return ModelInfo(*names, 1, 1, 1, 128, (layer, layer), quantized_as=grid, grid=grid)


def test_the_groups_must_be_the_blocks_of_the_file() -> None:
    model = info(576, 1536)
    assert given_back(model, GROUPS) == given_back(model, CLIP) == {4}
    others = [q for q in QUANTIZERS.values() if q != GROUPS]
    others += map(quantizer_named, ("quanto:group=64", "gptq:group=32"))
    assert not any(given_back(model, q) for q in others)
    for kind in (None, "Q4_0", "Q4_K", "Q5_1", "Q8_0"):
        assert not given_back(replace(model, grid=kind), GROUPS)


def test_groups_that_shrink_to_blocks_count_where_all_matrices_have_them() -> None:
    assert given_back(info(160, 32), PLAIN) == {4}  # groups of 128 do not divide 160, of 32 do
    assert given_back(info(160, 256), PLAIN) == frozenset()


def test_a_split_is_whole_where_every_packed_layer_is_given_back() -> None:
    back = GivenBack.by(info(576), [PLAIN, GROUPS])
    name = GROUPS.name
    assert back.is_whole(name, (4, 4)) and back.is_whole(name, (4, 16))
    assert not any(back.is_whole(name, split) for split in ((4, 2), (8, 8), (16, 16), (4, 0)))
    assert not back.is_whole(PLAIN.name, (4, 4)) and not NOTHING_BACK.is_whole(name, (4, 4))
    assert [back.layers(name, split) for split in ((4, 4), (4, 2), (16, 8))] == [2, 1, 0]


def test_the_sentence_names_the_level_the_format_and_if_need_be_the_quantizer() -> None:
    model = info(576)
    one = [(GROUPS.name, (4, 2))]
    assert origin_of(model, [GROUPS], one) == (
        "Weights come from a Q4_1 file. 4 bits give the Q4_1 file's weights back, but for rounding "
        "in bfloat16: lossless by construction, no merit of the quantizer."
    )
    assert "rounding" not in GivenBack.by(info(576, dtype="float32"), [GROUPS]).sentence(one)
    back = GivenBack.by(model, [PLAIN, GROUPS, CLIP])
    two = [(PLAIN.name, (4, 2)), *one]
    assert back.sentence(two).startswith(f"4 bits by {GROUPS.title} give")
    assert f" by {GROUPS.title}; {CLIP.title} give" in back.sentence([*two, (CLIP.name, (4,))])


def test_nothing_is_said_of_levels_that_are_not_there() -> None:
    model = info(576)
    assert origin_of(model, [GROUPS], [(GROUPS.name, (8, 2))]) == "Weights come from a Q4_1 file."
    assert origin_of(model, [PLAIN], [(PLAIN.name, (4, 2))]) == "Weights come from a Q4_1 file."
    assert origin_of(info(576, grid=None), [GROUPS], [(GROUPS.name, (4, 2))]) == ""
