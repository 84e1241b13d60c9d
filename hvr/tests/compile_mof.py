"""Compiles the schema with pywbem and prints each namespace's number of classes; any error is a non-zero exit."""
import sys
from pathlib import Path

from pywbem import Error
from pywbem_mock import FakedWBEMConnection

SCHEMA = Path(__file__).resolve().parent.parent / "schema"
TOPS = {
    "interop": "namespace_interop.mof",
    "root/cimv2": "namespace_cimv2.mof",
    "root/virtualization/v2": "namespace_virtualization_v2.mof",
}
for namespace, top in TOPS.items():
    connection = FakedWBEMConnection(default_namespace=namespace)
    try:
        connection.compile_mof_file(str(SCHEMA / top))
        names = connection.EnumerateClassNames(DeepInheritance=True)
        for name in names:
            connection.GetClass(name, LocalOnly=False)
    except Error as error:
        sys.exit(f"{top}: {error}")
    if not names:
        sys.exit(f"{top}: no class in {namespace}")
    print(namespace, len(names))
