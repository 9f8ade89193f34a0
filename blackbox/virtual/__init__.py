"""Virtual populations: members that are named, not stored.

A population around a pytree of parameters is its center and what names its members: a key with a generation and
member numbers, coordinates, or lists of seeds. It takes O(parameters) of memory however many members it has, and a
member's weights are made where they are used. The noise of a leaf is a function of (key, path of the leaf, generation,
pair), so that adding a layer moves no other noise.
"""

from __future__ import annotations

from blackbox.virtual.coordinate import CoordinatePopulation
from blackbox.virtual.gradient import credited_noise, weighted_noise
from blackbox.virtual.leaves import Leaf, Quantized, Structure, Weight, dense_structure, draw, structure_of
from blackbox.virtual.lineage import LineagePopulation
from blackbox.virtual.noise import NoisePopulation
from blackbox.virtual.population import VirtualPopulation
from blackbox.virtual.probes import Directions, Hadamard, ProbePopulation, Seeded, Stored, squared_lengths

__all__ = [
    "CoordinatePopulation",
    "Directions",
    "Hadamard",
    "Leaf",
    "LineagePopulation",
    "NoisePopulation",
    "ProbePopulation",
    "Quantized",
    "Seeded",
    "Stored",
    "Structure",
    "VirtualPopulation",
    "Weight",
    "credited_noise",
    "dense_structure",
    "draw",
    "squared_lengths",
    "structure_of",
    "weighted_noise",
]
