"""Texts as genomes: instructions, sets of exemplars, and systems of several texts, improved by what they score.

The public names are those of :mod:`blackbox.llm`. A method has the shape of a strategy, all of it pure functions of an
immutable state:

* ``init(key, seeds) -> state``
* ``ask(state) -> genomes``: the next ones. It may ask a language model through a :class:`blackbox.llm.Client`, whose
  stored answers make it a pure function, too: asked again, it gives the same genomes and pays nothing. Only where the
  provider has failed to answer, the model is asked again, and there may be others.
* ``batch(state)``: numbers of the task's instances on which each of them is evaluated, the same for all: paired.
* ``tell(state, genomes, scores, feedback=()) -> state``: losses of shape ``(genomes, instances)``, lower is better, NaN
  = failed = worst; it never asks a model. Methods that go by means take shape ``(genomes,)`` as well. Told may be fewer
  genomes than were asked, from the first on.
* ``recommend(state)``, and ``finalists(state, n)``: the best genome, and the n best for a choice on held-out instances.

Losses are between 0, as good as can be, and ``worst``, by default 1. In comparisons a failed instance counts ``worst``,
or the genome's worst loss if that is more, and a genome that failed on all is behind every other.

Genomes and states are JSON values, see :mod:`blackbox.llm.text.stored`. What a model or a candidate wrote is data in
every prompt, between tags that it cannot close.
"""
