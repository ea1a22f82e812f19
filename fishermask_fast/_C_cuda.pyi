from typing import TypedDict

class _BuildFacts(TypedDict):
    cuda_version: str
    architectures: str

def build_facts() -> _BuildFacts: ...
