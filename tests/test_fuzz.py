"""A part of `make fuzz`: damaged files of every kind end in a sentence, or in what makes sense, in time and memory."""

import resource

import fuzz

COUNT = 2000  # of the 20,000 of `make fuzz`: some 30 s of one core, of which ten make the whole files


def test_damaged_files_of_every_kind_are_refused_or_make_sense() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        assert fuzz.run(COUNT, seed=1, quiet=True) == {}
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)  # other tests of this process have memory of their own
