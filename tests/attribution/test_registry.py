import inspect

import attribution
from attribution import Method
from attribution.registry import METHODS


def test_names_are_those_of_the_methods_and_all_can_be_imported_from_the_package():
    for name, kind in METHODS.items():
        assert kind.name == name
        assert name == name.lower()
        assert getattr(attribution, kind.__name__) is kind
        assert kind.__doc__


def test_every_method_of_the_package_is_registered():
    exported = [getattr(attribution, name) for name in attribution.__all__]
    methods = {kind for kind in exported if inspect.isclass(kind) and issubclass(kind, Method)} - {
        Method,
        attribution.Prediction,
    }
    assert methods == set(METHODS.values())
