"""A study as a Workflow Run RO-Crate: one archive with its settings, its results and their provenance.

The archive follows RO-Crate 1.3 (https://w3id.org/ro/crate/1.3) and the profile Workflow Run Crate 0.6. The same study
gives the same bytes.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rocrate.model import ContextEntity, Entity
from rocrate.rocrate import ROCrate

from smallbatch.analysis.table import by_environment
from smallbatch.analysis.words import counted, format_duration
from smallbatch.core import environment
from smallbatch.core.files import atomic, zip_files
from smallbatch.data.prepared import read_meta
from smallbatch.publish.report import claim_rows, figure_title
from smallbatch.study.experiments import Study
from smallbatch.study.yaml_validation import read_yaml

PROFILES = {
    "Process Run Crate": ("https://w3id.org/ro/wfrun/process/0.6", "0.6"),
    "Workflow Run Crate": ("https://w3id.org/ro/wfrun/workflow/0.6", "0.6"),
}
"""Profile -> identifier and version; a third one, Workflow RO-Crate, is declared by adding the main workflow."""

FORMATS = {
    ".cff": "application/yaml",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".svg": "image/svg+xml",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
}
"""Suffix of a file -> its media type; all others are plain text."""

DESCRIPTIONS = {
    "CITATION.cff": "How to cite the workflow and the paper",
    "LICENSE": "The licence of the workflow",
    "README.md": "What the workflow does and how it is used",
    "envs/requirements.txt": "The locked environment",
    "config/config.yaml": "The configuration, before what the command line changed of it",
    "meta.json": "What is known of a data set: classes, shape, mean and standard deviation, fingerprint",
    "runs.csv": "One row per run: all settings, outcome, where it was trained",
    "runs.parquet": "One row per run: all settings, outcome, where it was trained",
    "epochs.parquet": "One row per run and epoch: learning rate, losses, accuracies",
    "variance.parquet": "One row per measured variance of an update",
    "claims.csv": "One row per claim: what was computed, verdict, effect with 95 % interval, all comparisons",
    "report.html": "Claims, results, figures, settings and environment on one page",
}
"""Name of a file, or its path where others have that name, -> its description."""

SNAKEMAKE = "https://snakemake.readthedocs.io/"

SOFTWARE = {
    "python": ("Python", "https://www.python.org/"),
    "torch": ("PyTorch", "https://pytorch.org/"),
    "numpy": ("NumPy", "https://numpy.org/"),
}
"""Key under which runs record a version -> name and home page of the software."""


class Files(NamedTuple):
    """The files that go into the crate, each at its path in the project.

    citation: CITATION.cff, which names the workflow, its authors, its licence and the paper.
    documents: README.md, LICENSE.
    code: all that the workflow needs to run, the main file first.
    settings: the configuration, the study.
    data: `meta.json` of each data set; the images, which can be large, are left out.
    results: tables, claims, report, figures.
    """

    citation: Path
    documents: Sequence[Path]
    code: Sequence[Path]
    settings: Sequence[Path]
    data: Sequence[Path]
    results: Sequence[Path]


def write(
    study: Study,
    runs: pd.DataFrame,
    claims: pd.DataFrame,
    files: Files,
    publisher: Mapping[str, str],
    snakemake_version: str,
    output: Path,
) -> None:
    """Write the crate of a complete study.

    Args:
        study: the study.
        runs: all its runs, as in `runs.parquet`.
        claims: the judged claims, as in `claims.csv`.
        files: the files to include; paths relative to the project's folder, which is the working directory.
        publisher: who trained and publishes it: name, kind (organization or person) and url, if any; or empty.
        snakemake_version: the version of Snakemake that runs the workflow.
        output: the archive, *.crate.zip.

    Raises:
        UserError: a file cannot be read or written.
    """
    crate, cited = ROCrate(version="1.3", gen_preview=True), read_yaml(files.citation)
    authors, paper, licence = _cited(crate, cited)
    publishers = [_party(crate, **publisher)] if publisher else []
    workflow = _workflow(crate, files.code, cited, snakemake_version)
    _tell(workflow, author=authors, license=licence, softwareRequirements=_software(crate, runs))
    inputs = [_file(crate, path, f"The file of study {study.name}") for path in files.settings]
    studied = _study(crate, study)
    inputs += [studied, *(_data(crate, path) for path in files.data)]
    results = [_file(crate, path, _title(path.stem, study)) for path in files.results]
    _claims(crate, claims, paper, studied)
    trainings = [
        _training(crate, f"#training-{number + 1}", study, recorded, rows)
        for number, (recorded, rows) in enumerate(by_environment(runs))
    ]
    for training in trainings:
        _tell(training, instrument=workflow, agent=publishers, object=inputs, result=results)
    for path in (*files.documents, files.citation):
        _tell(_file(crate, path), about=crate.root_dataset)
    _tell(
        crate.root_dataset,
        name=f"{study.title} (study {study.name})",
        description=study.description,
        datePublished=_times(runs).get("endTime", crate.datePublished.isoformat(timespec="seconds")),
        author=authors,
        publisher=publishers,
        license=licence,
        citation=paper,
        keywords=cited["keywords"],
        mentions=trainings,
    )
    for name, (identifier, version) in PROFILES.items():
        profile = _add(crate, identifier, ["CreativeWork", "Profile"], name=name, version=version)
        crate.root_dataset.append_to("conformsTo", profile)
    _tell(crate.preview, name=f"The files of study {study.name}")
    _archive(crate, output)


def _add(crate: ROCrate, name_in_crate: str, kind: str | list[str], **properties: Any) -> Entity:
    """Add an entity that is not a file; properties that link to other entities have these as values."""
    return _tell(crate.add(ContextEntity(crate, name_in_crate, properties={"@type": kind})), **properties)


def _tell(entity: Entity, **properties: Any) -> Entity:
    for name, value in properties.items():
        if value != []:
            entity[name] = value[0] if isinstance(value, list) and len(value) == 1 else value
    return entity


def _file(crate: ROCrate, path: Path, description: str = "") -> Entity:
    described = DESCRIPTIONS.get(path.as_posix()) or DESCRIPTIONS.get(path.name) or description
    properties = {"description": described} | _content(path, path.read_bytes())
    return crate.add_file(path, path, properties=properties)


def _content(path: Path, content: bytes) -> dict[str, str]:
    return {
        "name": path.name,
        "encodingFormat": FORMATS.get(path.suffix, "text/plain"),
        "contentSize": str(len(content)),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _cited(crate: ROCrate, cited: Mapping[str, Any]) -> tuple[list[Entity], Entity, Entity]:
    """The workflow's authors, the paper, and the licence."""
    authors = [_party(crate, author["name"], "organization") for author in cited["authors"]]
    [reference] = cited["references"]
    writers = [
        _add(crate, f"#{who['family-names']}", "Person", name=f"{who['given-names']} {who['family-names']}")
        for who in reference["authors"]
    ]
    paper = _add(
        crate,
        f"https://doi.org/{reference['doi']}",
        "ScholarlyArticle",
        name=reference["title"],
        author=writers,
        datePublished=str(reference["year"]),
        url=reference["url"],
    )
    name = cited["license"]
    licence = _add(
        crate,
        f"https://spdx.org/licenses/{name}",
        "CreativeWork",
        name=f"{name} licence",
        description="Its text is in LICENSE",
        identifier=name,
    )
    return authors, paper, licence


def _party(crate: ROCrate, name: str, kind: str, url: str = "") -> Entity:
    """An organization or a person; the same name without a URL is the same entity."""
    properties = {"name": name} | ({"url": url} if url else {})
    return _add(crate, url or f"#{'-'.join(name.lower().split())}", kind.capitalize(), **properties)


def _workflow(crate: ROCrate, code: Sequence[Path], cited: Mapping[str, Any], version: str) -> Entity:
    main, *others = code
    properties = _content(main, main.read_bytes())
    properties |= {"name": cited["title"], "description": cited["abstract"], "version": cited["version"]}
    language = {"lang": "snakemake", "lang_version": version}
    workflow = crate.add_workflow(main, main, main=True, **language, properties=properties)
    # The library links to both, and has no entities for them.
    _tell(workflow["programmingLanguage"], url=SNAKEMAKE, identifier=SNAKEMAKE)
    return _tell(workflow, hasPart=[_file(crate, path, f"Part of the workflow: {path.as_posix()}") for path in others])


def _software(crate: ROCrate, runs: pd.DataFrame) -> list[Entity]:
    """Every version of software that a run was trained with."""
    used = dict.fromkeys((key, recorded[key]) for recorded, _ in by_environment(runs) for key in SOFTWARE)
    return [
        _add(crate, f"{home}#{version}", "SoftwareApplication", name=name, url=home, version=version)
        for key, version in used
        for name, home in [SOFTWARE[key]]
    ]


def _study(crate: ROCrate, study: Study) -> Entity:
    """The study as JSON, with the changes from the command line and the defaults filled in."""
    path, text = Path("study.json"), json.dumps(study.as_json(), indent=1, ensure_ascii=False)
    properties = {"description": f"Study {study.name}, every setting spelt out"} | _content(path, text.encode())
    return crate.add_file(io.StringIO(text), path, properties=properties)


def _data(crate: ROCrate, path: Path) -> Entity:
    """A data set, identified by its fingerprint."""
    meta = read_meta(path)
    channels, height, width = meta.shape
    fingerprint = _add(
        crate,
        f"#fingerprint-{meta.label}",
        "PropertyValue",
        propertyID="SHA-256 over the images and labels of both splits and the names of the classes",
        name="fingerprint",
        value=meta.fingerprint,
    )
    return _add(
        crate,
        f"#data-{meta.label}",
        "Dataset",
        name=meta.label,
        description=f"{meta.train} training and {meta.test} test images of {channels}x{height}x{width}, "
        f"{len(meta.classes)} classes",
        identifier=fingerprint,
        subjectOf=_file(crate, path),
    )


def _title(figure: str, study: Study) -> str:
    return figure_title(figure, study.figures[figure]["title"]) if figure in study.figures else ""


def _claims(crate: ROCrate, claims: pd.DataFrame, paper: Entity, study: Entity) -> None:
    """Add each claim with its verdict, linked from the table of claims: the paper's, and the study's own."""
    [table] = [file for file in crate.data_entities if Path(file.id).name == "claims.csv"]
    pictures = {Path(file.id).stem: file for file in crate.data_entities if file.id.endswith(".svg")}
    for claim in claim_rows(claims):
        interval = f" ({claim['interval']})" if claim["interval"] else ""
        review = _add(
            crate,
            f"#{claim['id']}",
            "ClaimReview",
            name=f"{claim['claim']}: {claim['verdict']}",
            claimReviewed=claim["text"],
            itemReviewed=paper if claim["section"] else study,
            reviewRating=_verdict(crate, claim["verdict"]),
            reviewBody=f"{claim['predicate']}: {claim['effect']}{interval}. {claim['evidence']}",
            isBasedOn=[pictures[figure] for figure in claim["figures"]],
        )
        table.append_to("mentions", review)


def _verdict(crate: ROCrate, verdict: str) -> Entity:
    return _add(crate, f"#verdict-{verdict.replace(' ', '-')}", "Rating", name=verdict, ratingValue=verdict)


def _training(crate: ROCrate, identifier: str, study: Study, recorded: Mapping[str, str], rows: pd.DataFrame) -> Entity:
    """The training of those runs that one device, with one set of versions, trained."""
    known = [
        _add(crate, f"{identifier}-{key}", "PropertyValue", name=key, value=value) for key, value in recorded.items()
    ]
    trained = counted(len(rows), "run")
    return _add(
        crate,
        identifier,
        "CreateAction",
        name=f"{trained} of study {study.name}",
        description=f"{trained}, {format_duration(rows['seconds'].sum())} of training; {environment.words(recorded)}",
        additionalProperty=known,
        **_times(rows),
    )


def _times(rows: pd.DataFrame) -> dict[str, str]:
    """Start and end of the training of these runs, if recorded."""
    ended = rows[rows["ended"].notna()].sort_values("ended", kind="stable")
    if ended.empty:
        return {}
    first, last = ended.iloc[0], ended.iloc[-1]
    # A run's seconds are its share of the time of the lanes that it was trained with.
    began = datetime.fromisoformat(first["ended"]) - timedelta(seconds=first["seconds"] * first["lanes"])
    return {"startTime": began.isoformat(timespec="seconds"), "endTime": last["ended"]}


def _archive(crate: ROCrate, output: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, atomic(output) as file:
        crate.write(folder)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        zip_files(file, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
