"""Citation, issue templates and addresses of the project say what the package says."""

import tomllib

import pytest
import yaml

from scmf.core import provenance
from tests import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_is_that_of_this_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys(), "what the format requires"
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["version"] == PROJECT["version"] and provenance.version() in (PROJECT["version"], "0+unknown")
    assert cited["license"] == PROJECT["license"] and cited["repository-code"] == PROJECT["urls"]["Source"]
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in PROJECT["authors"]]
    assert cited["keywords"] == PROJECT["keywords"] and PROJECT["description"].lower() in cited["title"].lower()


def test_every_address_of_the_project_is_below_its_source():
    urls = PROJECT["urls"]
    assert {"Source", "Documentation", "Issues", "Changelog"} == urls.keys()
    assert all(url.startswith(urls["Source"]) for url in urls.values())


@pytest.mark.parametrize("name", ["bug", "number", "feature"])
def test_an_issue_template_is_a_form(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8"))
    assert form["name"] and form["description"] and form["labels"]
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids)) and any(part["validations"]["required"] for part in form["body"])
    for part in form["body"]:
        assert part["type"] in ("input", "textarea", "dropdown") and part["attributes"]["label"]


def test_the_code_of_conduct_says_where_to_report():
    text = (ROOT / "CODE_OF_CONDUCT.md").read_text(encoding="utf-8")
    assert "Contributor Covenant" in text and "Report" in text
