"""Seeds from numbers: the values are those of earlier releases, which recorded runs hang on."""

from boson_multimodal.seeds import seed_of


def test_values_are_those_of_earlier_releases() -> None:
    assert seed_of(0, 0, 0) == 151_133_529_135_046_365
    assert seed_of(42, 3, 1200, 1, 0) == 8_698_633_847_450_020_149
    assert seed_of(7) == 1_320_494_719_199_842_095


def test_every_tuple_of_numbers_has_its_own_seed_of_63_bits() -> None:
    tuples = [(a, b, c) for a in range(12) for b in range(12) for c in range(12)]
    tuples += [(a, b) for a in range(40) for b in range(40)] + [(1, 23), (12, 3), (-1, 2**70)]
    seeds = {seed_of(*numbers) for numbers in set(tuples)}
    assert len(seeds) == len(set(tuples))
    assert all(0 <= seed < 2**63 for seed in seeds) and max(seeds) > 2**62
