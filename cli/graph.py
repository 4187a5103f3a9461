"""`optc graph`: the data flow of a rule, after any pass."""

from __future__ import annotations

import argparse

from ..compiler.driver import graph
from ..compiler.ir import as_networkx
from ..compiler.pipeline import PASSES
from ..plugins.registry import library
from .files import read_source

HELP = "print the graph of a rule, after any pass"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .opt or .yaml file")
    parser.add_argument("--rule", default="", help="the rule, if the file has several")
    parser.add_argument(
        "--after", choices=("check", *PASSES), default="", help="the pass to stop at"
    )
    parser.add_argument("--dot", action="store_true", help="print it for graphviz")


def run(args: argparse.Namespace) -> int:
    made = graph(read_source(args.file), library(), args.rule, args.after)
    if not args.dot:
        print(made.text(), end="")
        return 0
    print(f"digraph {made.name} {{")
    for node in as_networkx(made).nodes:
        print(f'  n{node.number} [label="{node.op} : {node.type}"];')
        for source in node.inputs:
            print(f"  n{source.number} -> n{node.number};")
    print("}")
    return 0
