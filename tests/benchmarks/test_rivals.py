"""The tables of the rivals, from a study of two rows."""

import rivals


def entry(value):
    return {"value": value, "low": value, "high": value}


def test_a_row_has_its_scores_its_perplexity_beside_plain_and_its_costs():
    ratio = {"perplexity": {"ratio": entry(1.25)}}
    costs = {"training_seconds": 120.0, "step_seconds": None, "token_seconds": 0.0015}
    metrics = {"next_word_disparity": entry(0.5), "bbq_gender_ambiguous_bias": entry(None)}
    metrics |= {"stereoset_gender_ss": entry(60.0)}
    rows = [
        {"name": name, "metrics": metrics, "against_plain": against, "costs": costs}
        for name, against in (("plain", {}), ("other", ratio))
    ]
    results = {"rows": rows, "cards": {}, "settings": {"study": {"texts": {}}}}
    heading, _, plain, other = rivals.main_table(results)
    columns = [cell.strip() for cell in heading.split("|")]
    found = [dict(zip(columns, (cell.strip() for cell in line.split("|")), strict=True)) for line in (plain, other)]
    assert [row["perplexity, to plain"] for row in found] == ["1", "1.250 [1.250, 1.250]"]
    assert found[0]["next-word disparity"] == "0.500 [0.500, 0.500]" and found[0]["mean"] == "–"
    assert [found[1][name] for name in ("training, s", "a step, s", "a token, ms")] == ["120.0", "–", "1.500"]
    assert rivals.side_tables(results)[1:] == [
        "| row | stereoset gender ss |",
        "|---|---|",
        "| plain | 60.00 [60.00, 60.00] |",
        "| other | 60.00 [60.00, 60.00] |",
    ]
