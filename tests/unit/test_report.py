"""The report: one page that needs nothing else, with claims first and the right numbers."""

import base64
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import jinja2
import numpy as np
import pandas as pd
import pytest
from helpers import PROJECT
from helpers.tables import CLAIM, HERE, TEMPLATE, claims, planned, study_told

from smallbatch.analysis.claims.catalogue import CLAIMS
from smallbatch.analysis.words import NOTHING, format_duration, typeset
from smallbatch.core.errors import UserError
from smallbatch.figures import draw, style
from smallbatch.figures.accuracy_lines import best_cells
from smallbatch.publish.dvc_publish import claims_markdown
from smallbatch.publish.report import TEXTS, claim_rows, environments, figure_words, front, render, result_row, write
from smallbatch.study.experiments import Experiment, Setting, Study

FOLDER = PROJECT / "workflow" / "report"


def runs() -> pd.DataFrame:
    """Means 80, 85 (its seeds 4 apart) and 55; three of seven runs are not plain successes."""
    return planned({
        (2, 2**-8): [0.80, 0.80], (8, 2**-6): [0.83, 0.87], (8, 2**-4): [1.00, "diverged"], (32, 2**-6): ["missing"],
    })  # fmt: skip


def page(
    tmp_path: Path, table: pd.DataFrame | None = None, environment=HERE, judged: pd.DataFrame | None = None, **study
) -> str:
    table = runs() if table is None else table
    judged = claims() if judged is None else judged
    (tmp_path / "fig01.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="244.8pt"></svg>')
    figure = {"name": "fig01", "title": "Wide & narrow", "caption": "Lines <of> m.", "svg_path": tmp_path / "fig01.svg"}
    return render(TEMPLATE, study_told(**study), [figure], table, judged, environment)


class Page(HTMLParser):
    """Collects what a page loads, its tables as lists of cells, their words apart, and tags that were never closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.alts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.loads += [values[key] for key in ("src", "href") if key in values]
        if tag == "img":
            self.alts.append(values["alt"])
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            cells = self.tables[-1][-1]
            cells[-1] = " ".join([*cells[-1].split(), *data.split()])


def shared(text: str) -> dict[str, str]:
    """What all experiments or all environments of a page have."""
    return {key: html.unescape(value) for key, value in re.findall(r"<dt>(\w[\w ]*)</dt><dd>(.*?)</dd></div>", text)}


def test_results_of_an_experiment_are_those_of_its_best_cell() -> None:
    best = best_cells(runs(), ["experiment"], np.random.default_rng(0)).iloc[0]
    accuracy = f"{best['mean']:.1f} ({best['low']:.1f} to {best['high']:.1f})"
    assert 80 < best["mean"] < 85  # the mean of the seeds is 85, the best of several cells
    assert result_row(runs()) == {
        "experiment": "alex", "data": "digits", "model": "reduced AlexNet, no BN", "runs": "6 of 7", "diverged": "1",
        "converged": "5", "best m": "8", "best η/m": "2⁻⁶", "best accuracy (%)": accuracy, "time trained": "60 min",
    }  # fmt: skip


def test_no_spread_is_claimed_for_one_seed_and_nothing_where_nothing_is_known() -> None:
    half = result_row(planned({(2, 0.003): [0.9, "missing"]}))
    assert (half["best η/m"], half["best accuracy (%)"]) == ("0.003", "90.0")
    none = result_row(planned({(2, 2**-8): ["missing"]}))
    assert [none[key] for key in ("runs", "best m", "best η/m", "best accuracy (%)")] == ["0 of 1", "–", "–", "–"]  # noqa: RUF001


def test_claims_stand_first_with_verdict_effect_and_interval(tmp_path: Path) -> None:
    text = page(tmp_path)
    head, *rows = Page(text).tables[0]
    assert head == ["id", "verdict", "claim", "effect, 95 % interval"]
    assert [row[:2] for row in rows] == [
        ["C1", "supported"], ["C2", "refuted"], ["C3", "undecided"], ["C4", "not run"]
    ]  # fmt: skip
    assert [row[3] for row in rows] == ["+1.2 points +0.4 to +2.0", "slope 0.98 0.90 to 1.05", "", ""]
    assert rows[0][2] == (
        "Small m is best Computed best at m ≤ 8 Evidence Best at m = 2 (97.5 %), best of m > 8: 96.3 %. "
        "Rests on Figure 1 In the paper section 3.2"
    )
    assert "Rests on Figure 1 , Figure 2 Not in this study Figure 3, Section 3.2 In" in rows[2][2]
    assert [text.count(f'data-mark="{mark}"') for mark in "✓✗?–"] == [1, 1, 1, 1]  # noqa: RUF001


def test_claims_of_ones_own_are_not_called_the_papers_and_where_there_are_none_nothing_is_said(tmp_path: Path) -> None:
    papers = page(tmp_path)
    assert "<h2>The paper&#39;s claims</h2>" in papers and "not that the paper erred" in papers
    own = page(tmp_path, judged=claims(section=""))
    assert 'id="C1"' in papers and 'id="claim-C1"' in own, "unlike the ids of sections, as which it may be called"
    assert "<h2>Claims</h2>" in own and "In the paper" not in own and "not that the paper erred" not in own
    none = page(tmp_path, judged=claims()[:0])
    assert 'id="claims"' not in none and 'href="#claims"' not in none


def test_verdicts_are_counted_in_one_line(tmp_path: Path) -> None:
    many = pd.concat([claims(), claims(verdict="not run"), claims(verdict="refuted")])
    line = re.search(r'<p id="verdicts">(.*?)</p>', page(tmp_path, judged=many), re.DOTALL)[1]
    words = html.unescape(re.sub(r"<.*?>", "", line)).split()
    assert " ".join(words) == "1 supported, 5 refuted, 1 undecided, 5 not run"


def test_claims_and_the_figures_that_are_there_link_to_each_other(tmp_path: Path) -> None:
    text = page(tmp_path)
    inner = [target for target in Page(text).loads if target.startswith("#") and target[1:2] in "Cf"]
    assert inner == ["#figures", "#fig01", "#fig01", "#C1", "#C3"]  # fig02 is not in the page, so no link to it


@pytest.mark.parametrize("missing", [np.nan, ""])
def test_claims_are_shown_however_their_file_was_read(missing) -> None:
    row = CLAIM | {"claim": "C1", "verdict": "not run"} | dict.fromkeys(("effect", "low", "high", "figures"), missing)
    (shown,) = claim_rows(pd.DataFrame([row]))
    assert [shown[key] for key in ("effect", "interval", "figures", "absent")] == ["", "", [], []]
    (shown,) = claim_rows(pd.DataFrame([row | {"effect": "2 rates", "low": "1.5", "high": "2.5"}]))
    assert shown["interval"] == "1.5 to 2.5"
    (shown,) = claim_rows(pd.DataFrame([row]).drop(columns="comparisons"))
    assert shown["comparisons"] == [], "of a file that has none"


@pytest.mark.parametrize(
    ("effect", "low", "high", "text"),
    [
        ("+1.2 points", -0.4, 2.04, "-0.4 to +2.0"),
        ("-0.2 points", -0.5, -0.004, "-0.500 to -0.004"),  # not "-0.0": the reader asks on which side of 0 it is
        ("+0.2 points", 0.0, 0.41, "+0.0 to +0.4"),
        ("+0.0 points", -0.00002, 0.5, "-0.00002 to +0.50000"),
        ("+0.0 points", -0.000002, 0.5, "-0.000002 to +0.500000"),
        ("+0.0 points", -0.0000002, 0.5, "-0.000000 to +0.500000"),  # no more than six
        ("+1.2 points", "", 0.5, ""),
        ("+1.2 points", 0.5, "", ""),
        ("slope 0.98", 0.9, 1.054, "0.90 to 1.05"),
        ("3 rates", 2, 4, "2.0 to 4.0"),
        ("more", 0.5, 0.75, "0.50 to 0.75"),
    ],
)
def test_intervals_are_written_as_their_effects(effect: str, low: float, high: float, text: str) -> None:
    (shown,) = claim_rows(claims(effect=effect, low=low, high=high)[:1])
    assert shown["interval"] == text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fig01", "Figure 1"), ("fig13b", "Figure 13b"), ("sec32", "Section 3.2"), ("variance", "variance"),
        ("fig02: at sec32, (fig13a).", "Figure 2: at Section 3.2, (Figure 13a)."),
        ("myfig01 fig01-mine fig01_a figs/fig01 fig01.svg", "myfig01 fig01-mine fig01_a figs/fig01 fig01.svg"),
    ],
)  # fmt: skip
def test_figures_are_called_as_in_the_paper(name: str, words: str) -> None:
    assert figure_words(name) == words


def test_a_figure_without_a_number_is_called_by_its_title(tmp_path: Path) -> None:
    (tmp_path / "cost.svg").write_text("<svg></svg>")
    figure = {"name": "cost", "title": "Speed & memory", "caption": "", "svg_path": tmp_path / "cost.svg"}
    text = render(TEMPLATE, study_told(), [figure], runs(), claims(figures="cost"), HERE)
    assert "<figcaption><b>Speed &amp; memory.</b>" in text and '<a href="#cost">Speed &amp; memory</a>' in text
    assert "<figcaption><b>Figure 1: Wide &amp; narrow.</b>" in page(tmp_path)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("best eta_base at 4 <= m <= 8 >= 2", "best η̃ at 4 ≤ m ≤ 8 ≥ 2"),
        ("m in 8 ... 64, b = 2 ... m", "m in 8 … 64, b = 2 … m"),
        ("eta_base^2 m S^2 over log2 m at 2^-8", "η̃² m S² over log₂ m at 2⁻⁸"),
        (
            "my_eta_base, eta_bases, 12^-3, 1.2^3, log2m, {a: 1, ...}",
            "my_eta_base, eta_bases, 12^-3, 1.2^3, log2m, {a: 1, ...}",
        ),
    ],
)
def test_texts_are_set_as_they_are_read(written: str, read: str) -> None:
    assert typeset(written) == read == typeset(read)


def test_texts_of_claims_are_set_alike_in_all_that_shows_them() -> None:
    written = "fig01: best eta_base at m <= 2^3"
    (row,) = claim_rows(claims(**dict.fromkeys(TEXTS, written))[:1])
    assert {row[name] for name in TEXTS} == {"Figure 1: best η̃ at m ≤ 2³"}
    assert "| C1: Figure 1: best η̃ at m ≤ 2³ |" in claims_markdown(claims(text=written))


def test_no_text_of_a_claim_is_left_as_it_was_written() -> None:
    for claim in CLAIMS:
        for text in (claim.text, claim.predicate, claim.reading):
            assert not re.search(r"eta_base|[<>]=|\^|\d \.\.\. |\bfig\d|\bsec\d|log2", figure_words(typeset(text))), (
                text
            )


def test_a_reduced_study_says_so_before_anything_else(tmp_path: Path) -> None:
    scale = {"name": "glimpse", "epochs": 0.05, "train_images": 2000, "batch_sizes": [2, 8], "base_lrs": ["2^-8"]}
    text = page(tmp_path, scale=scale)
    words = " ".join(re.sub(r"<.*?>", "", text[text.index("<h1") : text.index("<nav")]).split())
    assert (
        "Reduced: a smaller version of the study; name: glimpse; epochs, as a part of all: 0.05; training images, "
        "at most: 2000; batch sizes kept: 2, 8; base learning rates kept: 2⁻⁸." in words
    )
    assert "Reduced:" not in page(tmp_path)


def test_page_holds_the_tables(tmp_path: Path) -> None:
    both = pd.concat([runs(), planned({(2, 2**-8): [0.5, 0.6]}, experiment="a-bn", norm="batch")])
    text = page(tmp_path, both)
    _, results = Page(text).tables
    row = result_row(runs())
    assert row.pop("data") == "digits" and "Data: digits." in text, "said once where all have the same"
    assert results[:2] == [list(row), list(row.values())]
    assert results[2][1] == "reduced AlexNet, BN on conv + FC"
    assert shared(text)["base_lrs"] == "2⁻⁸, 0.003" and shared(text)["warmup"] == "no"
    assert shared(text)["commit"] == "abc123"
    assert "Not set: train_images." in text
    others = page(tmp_path, pd.concat([runs(), planned({(2, 2**-8): [0.5]}, experiment="b", data="other")]))
    assert [row[1] for row in Page(others).tables[1]] == ["data", "digits", "other"] and "Data:" not in others


@pytest.mark.parametrize(("scaling", "symbol"), [("linear", "η/m"), ("sqrt", "η/√m")])
def test_the_rate_is_called_below_the_results_as_in_their_head(tmp_path: Path, scaling: str, symbol: str) -> None:
    text = " ".join(page(tmp_path, runs().assign(lr_scaling=scaling)).split())
    assert f"m: batch size; {symbol}: base learning rate, called η̃ in the claims. The best accuracy is" in text
    assert f"that of the cell (m, {symbol}) with" in text
    own = " ".join(page(tmp_path, runs().assign(lr_scaling=scaling), judged=claims(section="")).split())
    assert f"{symbol}: base learning rate. The best" in own
    assert f"best {symbol}" in Page(text).tables[1][0]


def test_what_all_experiments_share_is_said_once_below_the_results(tmp_path: Path) -> None:
    recipe = {"lr_schedule": "cosine", "lr_scaling": "sqrt"}
    one, other = (planned({(2, 2**-8): [0.5, 0.6]}, experiment=name, norm=norm).assign(**recipe) for name, norm in (
        ("a", "none"), ("b", "batch"),
    ))  # fmt: skip
    text = " ".join(page(tmp_path, pd.concat([one, other])).split())
    models = [row[1] for row in Page(text).tables[1][1:]]
    assert models == ["reduced AlexNet, no BN", "reduced AlexNet, BN on conv + FC"]
    assert "All experiments: cosine schedule, η ∝ √m. m: batch size;" in text
    assert "All experiments:" not in page(tmp_path, one)


def test_the_page_names_the_workflows_repository_if_it_has_one(tmp_path: Path) -> None:
    link = '<a href="https://example.org/code">https://example.org/code</a>'
    assert f"The workflow: {link}." in page(tmp_path, repository="https://example.org/code")
    assert "The workflow:" not in page(tmp_path)


def test_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = page(tmp_path)
    loads = Page(text).loads
    links = ["https://arxiv.org/abs/1804.07612", "claims.csv", "runs.csv"]
    others = [target for target in loads if not target.startswith(("data:image/svg+xml;base64,", "#"))]
    assert others == links and all(f'<a href="{link}">' in text for link in links)
    assert not re.search(r"url\(|@import|<link|https?://|fetch|XMLHttp", text.replace(links[0], ""))
    assert "default-src 'none'; img-src data:;" in text
    (picture,) = [target for target in loads if target.startswith("data:")]
    assert base64.b64decode(picture.partition(",")[2]) == (tmp_path / "fig01.svg").read_bytes()


def test_links_within_the_page_have_targets_and_pictures_a_text(tmp_path: Path) -> None:
    text = page(tmp_path)
    inner = [target[1:] for target in Page(text).loads if target.startswith("#")]
    assert inner
    assert all(f'id="{name}"' in text for name in inner)
    assert Page(text).alts == ["Plot: Wide & narrow"]


def test_powers_of_two_are_raised_wherever_they_are_written(tmp_path: Path) -> None:
    judged = claims(text="best at 2^-8", evidence="2^-12, not 12^-3 & m = 2^10, in fig02 <= sec32")
    text = page(tmp_path, judged=judged, description="Rates 2^-12 to 2^-4.", title="At 2^-8")
    assert "<h1>At 2⁻⁸</h1>" in text and "Rates 2⁻¹² to 2⁻⁴." in text
    assert (
        "<summary>best at 2⁻⁸</summary>" in text and "2⁻¹², not 12^-3 &amp; m = 2¹⁰, in Figure 2 ≤ Section 3.2" in text
    )


def test_texts_are_escaped(tmp_path: Path) -> None:
    attack = "<script>alert('x')</script>"
    bad = planned({(2, 2**-8): [0.5]}, model=attack)
    judged = claims(text=attack, evidence=attack, effect=attack)[:1]
    text = page(tmp_path, bad, {"device": attack}, judged, title=attack, description=attack, name=attack)
    assert text.count("<script") == 1  # the page's own
    assert text.count("&lt;script&gt;") == 9  # title twice, description, name, model, device, and of the claim three
    assert "Lines &lt;of&gt; m." in text


def test_time_and_runs_are_counted_once_for_experiments_that_share_them(tmp_path: Path) -> None:
    twice = pd.concat([runs(), runs().assign(experiment="twin")])
    assert "6 of 7 runs, trained in 60 min altogether (3,600 seconds);" in page(tmp_path, twice)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89.4, "89 s"), (600, "10 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_several_environments_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    text = page(tmp_path, environment=[HERE, HERE | {"device": "Some GPU", "cuda": "13"}])
    assert Page(text).tables[2] == [
        ["environment", "device", "cuda"],
        ["environment 1", "Some CPU", NOTHING],
        ["environment 2", "Some GPU", "13"],
    ]
    assert shared(text)["python"] == HERE["python"] and "device" not in shared(text)


def test_what_all_have_in_common_is_said_once(tmp_path: Path) -> None:
    others = {name: {"epochs": 20, "steps": None, "norm": norm} for name, norm in (("alex", "none"), ("bn", "batch"))}
    text = page(tmp_path, experiments=others)
    assert Page(text).tables[2] == [["experiment", "norm"], ["alex", "none"], ["bn", "batch"]]
    assert shared(text)["epochs"] == "20" and "norm" not in shared(text)
    assert "Not set in any: steps." in text


def test_heads_of_settings_break_behind_underscores(tmp_path: Path) -> None:
    text = page(tmp_path, experiments={"a": {"a_<b>_c": 1}, "b": {"a_<b>_c": 2}})
    assert ">a_<wbr>&lt;b&gt;_<wbr>c</th>" in text and 'data-head="a_&lt;b&gt;_c"' in text


def test_environments_come_from_the_runs_that_are_there() -> None:
    table = pd.concat([runs(), planned({(4, 2**-8): [0.5]}, device="Some GPU", cuda="13")])
    versions = {"python": "3.11.2", "torch": "2.15.0", "commit": "abc123"}
    assert environments(table) == [
        {"device": "Some CPU", **versions, "runs trained": 6, "time trained": "60 min"},
        {"device": "Some GPU", "cuda": "13", **versions, "runs trained": 1, "time trained": "10 min"},
    ]
    assert environments(planned({(2, 2**-8): ["missing"]})) == []


def test_a_study_is_written_with_captions_and_settings(tmp_path: Path) -> None:
    spec = {"kind": "best", "title": "Best", "experiments": ["alex"]}
    setting = Setting(data="digits", model="alexnet", weight_decay=5e-4, epochs=20)
    experiments = {"alex": Experiment("alex", setting, (2, 8, 32), None, (2**-8, 2**-6, 2**-4), (0, 1))}
    study = Study("made.yaml", "made", "A study", "What it is for.", experiments, {"fig15": spec})
    variance = pd.DataFrame(columns=["run", "epoch", "batch_size", "trace", "draws"])
    style.save(draw(spec, runs(), pd.DataFrame(), variance, spec["experiments"]), [tmp_path / "fig15.svg"])
    write(study, runs(), claims(), variance, [tmp_path / "fig15.svg"], TEMPLATE, tmp_path / "report.html", 1.0)
    text = (tmp_path / "report.html").read_text()
    assert "Best at m = 8: " in text, "a study of one's own opens with what it found"
    found = Page(text).tables[0]
    assert found[0][:2] == ["experiment", "best m"] and found[1][1:4] == ["8", "2", "η / m = 2⁻⁶"]
    write(study, runs(), claims(), variance, [tmp_path / "fig15.svg"], TEMPLATE, tmp_path / "again.html", 1.0)
    assert (tmp_path / "again.html").read_text() == text
    by_steps = {"alex": replace(experiments["alex"], setting=replace(setting, epochs=0, steps=100))}
    papers = replace(study, reproduces="paper", experiments=by_steps)
    write(papers, runs(), claims(), variance, [tmp_path / "fig15.svg"], TEMPLATE, tmp_path / "papers.html", 1.0)
    other = (tmp_path / "papers.html").read_text()
    assert "Best at m = 8" not in other
    assert "epochs" not in shared(other) and shared(other)["steps"] == "100"
    assert re.search(r"Not set: [^.]*\bepochs\b", other)
    assert "Corresponds to Figure 15 of the paper." in text
    grid = ["batch_sizes", "bn_batch_sizes", "base_lrs", "seeds", "best_of"]
    unset = re.search(r"Not set: (.*)\.</p>", text)[1].split(", ")
    assert {"steps", "images", "bn_batch_sizes"} < set(unset)
    assert {*shared(text), *unset} == {*vars(setting), *grid, *HERE, "runs trained", "time trained"}
    told = {"batch_sizes": "2, 8, 32", "base_lrs": "2⁻⁸, 2⁻⁶, 2⁻⁴", "model": "alexnet", "epochs": "20"}
    told |= {"warmup": "no", "momentum": "0.0", "seeds": "0, 1", "runs trained": "6"}
    assert told.items() <= shared(text).items()


def test_wide_pictures_are_given_the_whole_width(tmp_path: Path) -> None:
    pages = []
    for width in ("244.8", "504"):
        (tmp_path / "one.svg").write_text(f'<?xml version="1.0"?><svg height="9pt" width="{width}pt"></svg>')
        figure = {"name": "one", "title": "One", "caption": "", "svg_path": tmp_path / "one.svg"}
        pages.append(render(TEMPLATE, study_told(), [figure], runs(), claims(), HERE))
    assert ['<figure id="one" class="wide">' in text for text in pages] == [False, True]


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    figure = {"name": "gone", "title": "Gone", "caption": "", "svg_path": tmp_path / "gone.svg"}
    with pytest.raises(UserError, match=r"gone\.svg: cannot be read: No such file"):
        render(TEMPLATE, study_told(), [figure], runs(), claims(), HERE)


@pytest.mark.parametrize("caption", sorted(FOLDER.glob("*.rst")), ids=lambda path: path.stem)
def test_captions_for_snakemakes_own_report_use_only_what_is_there(caption: Path) -> None:
    job = SimpleNamespace(wildcards=SimpleNamespace(figure="fig01", study="laptop"), config={"front": "Study laptop."})
    pages = jinja2.Environment(undefined=jinja2.StrictUndefined)
    text = pages.from_string(caption.read_text(encoding="utf-8")).render(snakemake=job)
    assert "{" not in text
    assert ("Study laptop." in text) == (caption.stem == "workflow")


def test_the_front_page_of_snakemakes_own_report_names_the_study_and_its_verdicts(tmp_path: Path) -> None:
    assert front("made", "A study", tmp_path / "claims.csv") == "Study made: A study."
    for damaged in ("", "claim\nC1\n", "\0\xff"):
        (tmp_path / "claims.csv").write_text(damaged, encoding="latin-1")
        assert front("made", "A study", tmp_path / "claims.csv") == "Study made: A study."
    pd.concat([claims(), claims()[:1]]).to_csv(tmp_path / "claims.csv", index=False)
    assert front("made", "A study", tmp_path / "claims.csv") == (
        "Study made: A study. Of the paper's 5 claims: 2 supported, 1 refuted, 1 undecided, 1 not run."
    )
    pd.concat([claims()[:2], claims(section="")[:1]]).to_csv(tmp_path / "claims.csv", index=False)
    assert "Of the paper's 2 claims and 1 of its own: 2 supported, " in front("made", "A", tmp_path / "claims.csv")
    claims(section="")[:1].to_csv(tmp_path / "claims.csv", index=False)
    assert "Of its own 1 claim: 1 supported, " in front("made", "A", tmp_path / "claims.csv")
    claims()[:0].to_csv(tmp_path / "claims.csv", index=False)
    assert front("made", "A study", tmp_path / "claims.csv") == "Study made: A study."


def test_a_page_says_when_and_on_what_its_runs_were_trained(tmp_path: Path) -> None:
    days = ["2026-11-26T23:59:59+00:00", "2026-11-25T08:00:00+00:00", *["2026-11-25T09:00:00+00:00"] * 5]
    text = " ".join(page(tmp_path, runs().assign(ended=days)).split())
    assert "(3,600 seconds); that adds up what trained side by side. They ended 2026-11-25 08:00 to 2026-11-26 " in text
    assert "11-26 23:59 UTC on Some CPU. " in text
    days = ["2026-11-25T10:30:00+01:00", *["2026-11-25T09:00:00+00:00"] * 6]
    text = page(tmp_path, runs().assign(ended=days))
    assert "They ended 2026-11-25 09:00 to 09:30 UTC on Some CPU. " in " ".join(text.split())
    devices = ["Some GPU", *["Some CPU"] * 5, None]
    on_both = page(tmp_path, runs().assign(ended=days[0], device=devices))
    assert "UTC on Some CPU, Some GPU. " in " ".join(on_both.split())
    assert "They ended" not in page(tmp_path), "where it is not known"


def test_a_claim_opens_to_how_it_is_known(tmp_path: Path) -> None:
    comparisons = [
        {"comparison": "fig01: inside", "verdict": "supported", "seeds": 5, "unit": "points", "effect": 1.25,
         "low": 0.4, "high": 2.0, "at_least": 0.2, "at_most": None},
        {"comparison": "fig02: level", "verdict": "undecided", "seeds": 1, "unit": "points", "effect": 0.5,
         "low": -1.5, "high": 1.5, "at_least": -1.0, "at_most": 1.0},
        {"comparison": "fig03: no run has converged", "verdict": "undecided", "seeds": 0, "unit": "points",
         **dict.fromkeys(("effect", "low", "high", "at_least", "at_most"))},
    ]  # fmt: skip
    known = {"reading": "one way", "thresholds": "margin = 0.2", "seeds": "1 to 5", "to_decide": "about 3 more seeds"}
    judged = claims(comparisons=json.dumps(comparisons), differences="digits, not CIFAR-10", **known)[:1]
    cell = Page(page(tmp_path, judged=judged)).tables[0][1][2]
    assert cell == (
        "Small m is best Computed best at m ≤ 8 Read as one way Thresholds margin = 0.2 Seeds 1 to 5 a cell "
        "Evidence Best at m = 2 (97.5 %), best of m > 8: 96.3 %. Rests on Figure 1 To decide it about 3 more seeds "
        "In the paper section 3.2 "
        "supported : Figure 1: inside: +1.2 points (+0.4 to +2.0), claimed above 0.2; 5 seeds "
        "undecided : Figure 2: level: +0.5 points (-1.5 to +1.5), claimed above -1 and below 1; 1 seed "
        "undecided : Figure 3: no run has converged "
        "Here: digits, not CIFAR-10."
    )
