"""What containers and GPU settings of a site break, whatever GPUs a node has."""

from __future__ import annotations

from collections.abc import Iterator

from engine.rules import containers, networks
from engine.rules.fault import Fault, Key, Rule
from installer.compat import choice
from installer.site.rules.given import Given, halves
from installer.site.settings import Site


def images(given: Given) -> Iterator[Fault]:
    """By node, because names and ports are each node's own; those of no node are looked at alone."""
    listed = given.site.containers or ()
    where = [[i for i, c in enumerate(listed) if set(c.groups) & set(h.groups)] for h in given.nodes]
    for numbers in [*where, *([i] for i in range(len(listed)))]:
        for fault in containers.containers([listed[i].model_dump(mode="json") for i in numbers]):
            yield Fault(
                fault.rule, ("containers", numbers[int(fault.key[1])], *fault.key[2:]), fault.what, fault.remedy
            )
    for i, container in enumerate(listed):
        for j, port in enumerate(container.ports):
            key: Key = ("containers", i, "ports", j, "sources")
            yield from networks.networks(key, "", port.sources)


def gpus(site: Site) -> Iterator[Fault]:
    """What contradicts itself whatever GPUs a node has."""
    driver = site.gpu_driver
    if driver and driver.modules != "auto":
        for what in choice.modules((), driver.version, driver.modules).faults:
            yield Fault(Rule.DRIVER_MODULES, ("gpu_driver", "modules"), *halves(what))
    if site.cuda and site.cuda.compat and not driver:
        what = "is asked for, but gpu_driver does not say which driver it stands beside"
        yield Fault(Rule.CUDA_DRIVER, ("cuda", "compat"), what, "add gpu_driver, or remove cuda.compat")
    if site.mig:
        layout = site.mig.model_dump(mode="json")["layout"]
        for what in choice.layout(layout):
            yield Fault(Rule.MIG_LAYOUT, ("mig", "layout"), *halves(what))
        wanted = [{"name": s.name, "gpu": s.mig.gpu, "instance": s.mig.instance} for s in site.services if s.mig]
        n_gpus = max((s.mig.gpu for s in site.services if s.mig), default=-1) + 1
        for what in choice.slices(n_gpus, layout, wanted):
            yield Fault(Rule.MIG_SLICE, ("mig", "layout"), *halves(what))
