"""How figures look: colours, sizes, ticks, and that the same table gives the same bytes."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers.figures import (
    NO_EPOCHS,
    NO_VARIANCE,
    brightness,
    caption,
    draw,
    draw_grid,
    grid,
    note_of,
    planned,
    spec,
)

import smallbatch
from smallbatch import figures
from smallbatch.figures import ALL_KINDS, style
from smallbatch.figures.sheet import wrapped


def test_many_rates_are_all_ticked_but_not_all_labelled() -> None:
    runs = planned({(2, 2, 2.0**k): [0.5] for k in range(-12, 1)})
    axis = draw(spec("accuracy"), runs, NO_EPOCHS).axes[0].xaxis
    assert [text.get_text() for text in axis.get_ticklabels()] == ["2⁻¹²", "2⁻¹⁰", "2⁻⁸", "2⁻⁶", "2⁻⁴", "2⁻²", "2⁰"]
    assert len(set(axis.get_majorticklocs()) | set(axis.get_minorticklocs())) == 13


def test_batch_sizes_have_ordered_colours_that_show_on_white_and_markers_of_their_own() -> None:
    looks = [style.batch_look(2**k) for k in range(1, 12)]
    light = [brightness(look["color"]) for look in looks]
    assert light == sorted(light)
    assert light[-1] < 0.75
    assert len({look["marker"] for look in looks}) == 11
    assert style.batch_look(1)["color"] == looks[0]["color"]
    assert style.batch_look(8192)["color"] == looks[-1]["color"]


def test_lines_that_coincide_lie_side_by_side() -> None:
    runs = planned({(m, m, 2.0**k): [0.9, 0.91] for m in (2, 8) for k in (-9, -8)})
    figure = draw(spec("accuracy"), runs, NO_EPOCHS)
    drawn = [line for line in figure.axes[0].get_lines() if line.get_label() in ("2", "8")]
    left, right = (line.get_transform().transform(line.get_xydata()) for line in drawn)
    points = (right - left) * 72 / figure.dpi
    np.testing.assert_allclose(points, [[2, 0], [2, 0]], atol=1e-6)
    np.testing.assert_array_equal(*(line.get_xydata() for line in drawn))
    assert "Lines lie side by side" in caption("fig01", spec("accuracy"), runs)
    assert "side by side" not in caption("fig01", spec("accuracy"), runs[runs["batch_size"] == 2])


def test_speed_and_memory_that_coincide_lie_side_by_side() -> None:
    runs = pd.concat([planned({(2, 2, 2**-8): [0.9]}, experiment=name, norm=norm) for name, norm in NORMS.items()])
    for axes in draw(spec("cost", *NORMS), runs, NO_EPOCHS).axes:
        ends = [line.get_transform().transform(line.get_xydata()[0])[0] for line in axes.get_lines()[:3]]
        np.testing.assert_allclose(np.diff(ends) * 72 / axes.figure.dpi, [2, 2])


def test_many_lines_at_many_rates_stay_at_their_ticks() -> None:
    runs = planned({(2**s, 2**s, 2.0**k): [0.9] for s in range(1, 12) for k in range(-12, 1)})
    figure = draw(spec("accuracy"), runs, NO_EPOCHS)
    drawn = [line for line in figure.axes[0].get_lines() if line.get_label().isdigit()]
    ends = [line.get_transform().transform(line.get_xydata()[0])[0] * 72 / figure.dpi for line in drawn]
    assert len(ends) == 11 and 3 < max(ends) - min(ends) < 7


NORMS = {"alex": "none", "bn": "batch", "gn": "group"}


def test_an_experiment_has_one_look_in_all_figures_of_a_study() -> None:
    tables = pd.concat([grid().assign(experiment=name, norm=norm) for name, norm in NORMS.items()])
    order = ["alex", "gn", "bn"]
    colors = {}
    for kind, shown in (("best", ["alex", "bn"]), ("best", ["bn"]), ("range", ["bn", "gn"]), ("cost", ["gn", "bn"])):
        figure = figures.draw(spec(kind, *shown), tables, NO_EPOCHS, NO_VARIANCE, order)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            color = handle.get_facecolor()[0] if kind == "range" else handle.get_color()
            colors.setdefault(label, set()).add(matplotlib.colors.to_hex(color))
    looks = style.experiment_looks(order)
    words = ["reduced AlexNet, no BN", "reduced AlexNet, GN on conv + FC", "reduced AlexNet, BN on conv + FC"]
    assert colors == {word: {looks[name]["color"].lower()} for name, word in zip(order, words, strict=True)}


def test_no_line_of_a_note_ends_between_a_number_and_its_unit() -> None:
    words = "cifar10-jpeg, reduced AlexNet, BN on conv + FC, 15 epochs, 3 seeds; bands: 95 % intervals"
    for width in np.linspace(0.8, 4, 60):
        lines = wrapped(words, width)
        assert " ".join(lines).replace(";", "") == words.replace(";", "")
        assert not any(line[-1].isdigit() for line in lines)


def test_experiments_never_look_alike() -> None:
    looks = style.experiment_looks(map(str, range(14))).values()
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 14


def test_text_can_be_read_in_print() -> None:
    figure = draw_grid()
    with style.context():
        figure.draw_without_rendering()
        sizes = [text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
    assert min(sizes) >= 7
    assert figure.get_figwidth() == 3.4


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_bare_figure_has_neither_title_nor_note_nor_room_for_them(kind: str) -> None:
    tables = grid(), NO_EPOCHS, NO_VARIANCE
    whole, bare = (figures.draw(spec(kind, base_lr=2**-8), *tables, ["alex"], bare) for bare in (False, True))
    assert whole.get_suptitle() == "A title" and "4 epochs" in note_of(whole)
    assert not bare.get_suptitle() and not note_of(bare)
    assert bare.get_figheight() < whole.get_figheight() and len(bare.legends) == len(whole.legends)
    for one, other in zip(whole.axes, bare.axes, strict=True):
        assert one.get_ylim() == other.get_ylim() and len(one.get_children()) == len(other.get_children())


@pytest.mark.slow
@pytest.mark.parametrize("experiments", [["alex"], ["alex", "long-name", "other"]])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_nothing_is_cut_off_or_covered(kind: str, experiments: list[str]) -> None:
    settings = {"norm": "batch", "augment": "flip", "warmup": True, "momentum": 0.9, "momentum_scaled": True}
    long = grid().assign(experiment="long-name", data="cifar100", selection="validation", **settings)
    tables = [grid(), long, grid().assign(experiment="other", norm="group")]
    figure = draw(spec(kind, *experiments, base_lr=2**-8), pd.concat(tables), NO_EPOCHS)
    with style.context():
        figure.draw_without_rendering()
        legends = [legend.get_window_extent() for legend in figure.legends]  # kind variance has its own in the plot
        whole, note, plot = figure.bbox, figure.texts[-1].get_window_extent(), figure.axes[0].get_tightbbox()
        titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert len(legends) == (kind != "variance")
    assert not note.overlaps(plot)
    assert not any(legend.overlaps(plot) or legend.overlaps(note) for legend in legends)
    assert not any(left.overlaps(right) for left, right in itertools.combinations([*legends, *titles], 2))
    for box in (*legends, *titles, plot, note):
        assert box.x0 >= 0
        assert box.x1 <= whole.x1
        assert box.y0 >= 0
        assert box.y1 <= whole.y1


_ELSEWHERE = """
import sys; sys.path[:0] = sys.argv[2:]
from helpers.figures import draw_grid
from smallbatch.figures import ALL_KINDS, style
for kind in reversed(ALL_KINDS):
    style.save(draw_grid(kind), [f"{sys.argv[1]}/{kind}.{end}" for end in ("pdf", "svg", "png")])
"""


def save_elsewhere(folder: Path, hash_seed: str) -> dict[str, bytes]:
    """Save every kind from another process, whose hashes are seeded differently, and in another order."""
    imported = [Path(smallbatch.__file__).parents[1], Path(__file__).parents[1]]
    settings = os.environ | {"PYTHONHASHSEED": hash_seed, "MPLCONFIGDIR": str(folder / "cache"), "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-c", _ELSEWHERE, *map(str, [folder, *imported])]
    subprocess.run(command, check=True, env=settings)
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.slow
def test_files_are_the_same_bytes_in_another_process_whatever_was_drawn_before(tmp_path: Path) -> None:
    for kind in ALL_KINDS:
        style.save(draw_grid(kind), [tmp_path / "here" / f"{kind}.{end}" for end in ("pdf", "svg", "png")])
    first = {file.name: file.read_bytes() for file in (tmp_path / "here").iterdir()}
    (tmp_path / "there").mkdir()
    assert len(first) == 3 * len(ALL_KINDS)
    assert first == save_elsewhere(tmp_path / "there", hash_seed="7")
    assert not any(b"atplotlib v" in content or b"CreationDate" in content for content in first.values())


def test_the_users_own_settings_neither_change_a_figure_nor_are_changed(tmp_path: Path) -> None:
    style.save(draw_grid(), [tmp_path / "plain.svg"])
    with matplotlib.rc_context({"lines.linewidth": 9, "font.family": "monospace", "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        style.save(draw_grid(), [tmp_path / "own.svg"])
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "own.svg").read_bytes()


@pytest.mark.parametrize("title", ["From $5 to $10", r"Sweep of $\lambda_{x$", r"$\frac$ and 100 % of \$"])
def test_a_title_is_drawn_as_it_stands(title: str, tmp_path: Path) -> None:
    figure = draw(spec("accuracy", title=title), grid(), NO_EPOCHS)
    [text] = [text for text in figure.texts if text.get_text() == title]
    assert not text.get_parse_math()
    style.save(figure, [tmp_path / f"f.{form}" for form in ("pdf", "svg", "png")])


def test_a_character_that_the_font_lacks_is_said_in_the_log(tmp_path: Path, caplog) -> None:
    style.save(draw(spec("accuracy", title="小"), grid(), NO_EPOCHS), [tmp_path / "f.png"])
    (said,) = caplog.messages
    assert "Glyph 23567" in said and "missing from font" in said


@pytest.mark.slow
def test_figures_need_no_torch() -> None:
    library = Path(smallbatch.__file__).parent.parent
    code = "import sys; import smallbatch.figures, smallbatch.publish.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(library)}).returncode == 0
