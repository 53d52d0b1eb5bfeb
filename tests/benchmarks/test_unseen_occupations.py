"""Prompts that no setting was chosen by."""

import unseen_occupations

from distill.text.prompts import load_prompts


def test_no_occupation_and_no_pattern_is_a_bundled_one():
    unseen, bundled = unseen_occupations.prompts(), load_prompts()
    assert len({prompt.subject for prompt in unseen}) == 60 and len({prompt.text for prompt in unseen}) == 300
    assert not {prompt.subject for prompt in unseen} & {prompt.subject for prompt in bundled}

    def patterns(prompts):
        return {prompt.text.replace(prompt.subject, "X") for prompt in prompts}

    assert len(patterns(unseen)) == 5 and not patterns(unseen) & patterns(bundled)


def test_a_row_is_its_mean_its_seeds_and_how_large_it_is_beside_the_first():
    assert unseen_occupations.cells([-0.2, 0.4], [1.0, 2.0]) == ["0.100 [-0.200, 0.400]", "0.200"]
    assert unseen_occupations.cells([0.5], [1.0]) == ["0.500", "0.500"]
