"""The management API over CIM-XML, with pywbem. An instance is a `pywbem.CIMInstance`: its properties by name, and its path."""

import pywbem

NAMESPACE = "root/virtualization/v2"


class CimXml:
    port = 5989
    errors = (pywbem.Error,)

    def __init__(self, host, port, user, password, ca):
        self.connection = pywbem.WBEMConnection(
            f"https://{host}:{port}", (user, password), default_namespace=NAMESPACE, ca_certs=ca, timeout=90
        )
        self.classes = {}

    def query(self, wql):
        return self.connection.ExecQuery("WQL", wql)

    def get(self, path):
        return self.connection.GetInstance(path)

    def related(self, path, association, result):
        """The instances of class `result` that the association leads to from the one at `path`."""
        return self.connection.Associators(path, AssocClass=association, ResultClass=result)

    def new(self, class_name, **properties):
        """An instance for a method's argument: the class's defaults, and these properties."""
        declared = self.class_of(class_name)
        return pywbem.CIMInstance.from_class(declared, property_values=properties, include_path=False)

    def edited(self, instance, **properties):
        """The instance with these properties changed, for a method's argument."""
        declared = self.class_of(instance.classname).properties
        for name, value in properties.items():
            instance[name] = pywbem.cimvalue(value, declared[name].type)
        return instance

    def embedded(self, value):
        """An instance that came out of a method; pywbem has read it already."""
        return value

    def invoke(self, path, method, **arguments):
        """Calls a method: its return code, and what came out."""
        declared = self.class_of(path.classname).methods[method].parameters

        def typed(name, value):
            is_cim = isinstance(value, (pywbem.CIMInstance, pywbem.CIMInstanceName))
            return value if is_cim else pywbem.cimvalue(value, declared[name].type)

        given = [(name, typed(name, value)) for name, value in arguments.items()]
        return self.connection.InvokeMethod(method, path, given)

    def class_of(self, name):
        if name not in self.classes:
            self.classes[name] = self.connection.GetClass(name, LocalOnly=False)
        return self.classes[name]
