import numpy as np
import pytest
import torch

from attribution.randomness import key, random_words

CPU = torch.device("cpu")


def test_keys_never_change_between_versions():
    assert key() == 13020603013274838756
    assert key(0) == 11358551280924329103
    assert key("0") == 2964318205859633167
    assert key(-1) == 8528503982344629896
    assert key(7, "587722984440135724", "mc_dropout", 3) == 1482369735087649097


def test_words_never_change_between_versions():
    assert random_words([key(7, "a"), key(7, "b")], 4, CPU).tolist() == [
        [3509325809, 1701691487, 1370179233, 3326303573],
        [3153416470, 3384430710, 4208038636, 3710235666],
    ]


def test_words_follow_the_published_mixer():
    def lowbias32(word):
        word ^= word >> 16
        word = word * 0x7FEB352D % 2**32
        word ^= word >> 15
        word = word * 0x846CA68B % 2**32
        return word ^ word >> 16

    keys = [0, 2**64 - 1, 0x0123456789ABCDEF, 2**63]
    expected = [[lowbias32(lowbias32(e ^ k % 2**32) ^ k >> 32) for e in range(50)] for k in keys]
    assert random_words(keys, 50, CPU).tolist() == expected


def test_a_row_depends_on_its_key_alone():
    keys = [key(1, n) for n in range(5)]
    together = random_words(keys, 30, CPU)
    assert torch.equal(random_words(keys[3:4], 20, CPU)[0], together[3, :20])


def test_keys_do_not_collide():
    keys = {
        key(seed, str(galaxy), "mc_dropout", sample)
        for seed in range(2)
        for galaxy in range(500)
        for sample in range(100)
    }
    assert len(keys) == 100_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 23), (12, 3)),
        (("a", "b"), ("ab",)),
        (("a\x1fstr:b",), ("a", "b")),
        (("1",), (1,)),
        (("a", "b"), ("b", "a")),
        (("",), ()),
    ],
)
def test_different_purposes_have_different_keys(one, other):
    assert key(*one) != key(*other)


def test_numpy_values_count_as_the_values_they_hold():
    assert key(np.int64(7), np.str_("a")) == key(7, "a")


def test_a_float_is_no_key():
    with pytest.raises(TypeError):
        key(0.5)


def test_words_are_uniform():
    words = random_words([key(n) for n in range(64)], 4096, CPU).numpy().ravel()
    for shift in (0, 8, 16, 24):
        observed = np.bincount((words >> shift) & 255, minlength=256)
        expected = words.size / 256
        chi_square = ((observed - expected) ** 2 / expected).sum()
        # 255 degrees of freedom: mean 255, standard deviation 22.6
        assert 140 < chi_square < 370


@pytest.mark.parametrize("lag", [1, 2, 32, 1024])
def test_elements_and_rows_are_uncorrelated(lag):
    words = random_words([key("galaxy", n) for n in range(64)], 4096, CPU).numpy() / 2.0**32
    along = np.corrcoef(words[:, :-lag].ravel(), words[:, lag:].ravel())[0, 1]
    assert abs(along) < 5 / np.sqrt(64 * (4096 - lag))
    across = np.corrcoef(words)[np.triu_indices(64, 1)]
    assert np.abs(across).max() < 6 / np.sqrt(4096)
