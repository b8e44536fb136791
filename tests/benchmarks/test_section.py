"""Two benchmarks write one page, and neither loses what the other wrote."""

from benchmarks.shared.section import write_section


def test_a_section_is_replaced_in_its_place_and_others_stay(tmp_path):
    page = tmp_path / "docs" / "benchmarks" / "methods.md"
    write_section(page, ["# Guidance", "", "old", "## Scores", ""], first=False)
    write_section(page, ["# Methods", "", "first"], first=True)
    write_section(page, ["# Guidance", "", "new"], first=False)
    assert page.read_text() == "# Methods\n\nfirst\n\n# Guidance\n\nnew\n"
    write_section(page, ["# Methods", "", "again"], first=True)
    assert page.read_text() == "# Methods\n\nagain\n\n# Guidance\n\nnew\n"
