"""The management API over WS-Management, with pypsrp's WSMan class. All values are text, as they stand in the messages."""

from dataclasses import dataclass
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from pypsrp.exceptions import AuthenticationError, WinRMError, WinRMTransportError, WSManFaultError
from pypsrp.wsman import NAMESPACES, SelectorSet, WSMan

BASE = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/"
CLASSES = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
ANONYMOUS = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"


def tag(prefix, name):
    return f"{{{NAMESPACES[prefix]}}}{name}"


NIL = tag("xsi", "nil")


def local(element):
    return element.tag.rpartition("}")[2]


@dataclass(frozen=True)
class Path:
    """What an endpoint reference says: the resource and its selectors."""

    uri: str
    keys: dict

    @classmethod
    def read(cls, reference):
        """From an element that holds the reference's address and parameters."""
        uri = reference.findtext(f".//{tag('wsman', 'ResourceURI')}").strip()
        selectors = reference.iter(tag("wsman", "Selector"))
        return cls(uri, {selector.get("Name"): selector.text or "" for selector in selectors})

    def selectors(self):
        selectors = SelectorSet()
        for name, value in self.keys.items():
            selectors.add_option(name, value)
        return selectors

    def write(self, element):
        """Into a method's argument."""
        ElementTree.SubElement(element, tag("wsa", "Address")).text = ANONYMOUS
        parameters = ElementTree.SubElement(element, tag("wsa", "ReferenceParameters"))
        ElementTree.SubElement(parameters, tag("wsman", "ResourceURI")).text = self.uri
        parameters.append(self.selectors().pack())

    def wql(self):
        keys = {name: value for name, value in self.keys.items() if name != "__cimnamespace"}
        quoted = (name + "='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for name, value in keys.items())
        return f"{self.uri.rpartition('/')[2]}.{','.join(quoted)}"


class Instance(dict):
    """Properties by name: text, a `Path`, a list of these, or None."""

    def __init__(self, class_name, path):
        super().__init__()
        self.class_name = class_name
        self.path = path

    @classmethod
    def read(cls, element, path=None):
        """From the body of a Get or an item of an enumeration."""
        instance = cls(local(element), path)
        instance.update(properties(element))
        return instance


def properties(element):
    """The children of an element by name; a name that comes again makes a list."""
    found = {}
    for child in element:
        name, value = local(child), value_of(child)
        if name not in found:
            found[name] = value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    return found


def value_of(element):
    if element.get(NIL) == "true":
        return None
    if element.find(tag("wsa", "ReferenceParameters")) is not None:
        return Path.read(element)
    # A datetime stands in an element of its own.
    return element[0].text if len(element) else element.text or ""


class WsMan:
    port = 5986
    errors = (WinRMError, WinRMTransportError, WSManFaultError, AuthenticationError)

    def __init__(self, host, port, user, password, ca):
        self.wsman = WSMan(
            host,
            port=port,
            ssl=True,
            cert_validation=ca,
            auth="basic",
            username=user,
            password=password,
            operation_timeout=60,
            read_timeout=90,
        )
        self.classes = {}

    def query(self, wql):
        enumerate_ = ElementTree.Element(tag("wsen", "Enumerate"))
        ElementTree.SubElement(enumerate_, tag("wsman", "OptimizeEnumeration"))
        ElementTree.SubElement(enumerate_, tag("wsman", "MaxElements")).text = "100"
        ElementTree.SubElement(enumerate_, tag("wsman", "EnumerationMode")).text = "EnumerateObjectAndEPR"
        ElementTree.SubElement(enumerate_, tag("wsman", "Filter"), Dialect=WQL).text = wql
        answer = self.wsman.enumerate(BASE + "*", enumerate_)
        found = []
        while True:
            for item in answer.iter(tag("wsman", "Item")):
                instance, reference = item
                found.append(Instance.read(instance, Path.read(reference)))
            ends = (answer.find(f".//{tag(prefix, 'EndOfSequence')}") for prefix in ("wsman", "wsen"))
            if any(end is not None for end in ends):
                return found
            pull = ElementTree.Element(tag("wsen", "Pull"))
            context = answer.findtext(f".//{tag('wsen', 'EnumerationContext')}")
            ElementTree.SubElement(pull, tag("wsen", "EnumerationContext")).text = context
            ElementTree.SubElement(pull, tag("wsen", "MaxElements")).text = "100"
            answer = self.wsman.pull(BASE + "*", pull)

    def get(self, path):
        body = self.wsman.get(path.uri, selector_set=path.selectors())
        return Instance.read(body[0], path)

    def related(self, path, association, result):
        """The instances of class `result` that the association leads to from the one at `path`."""
        return self.query(f"ASSOCIATORS OF {{{path.wql()}}} WHERE AssocClass={association} ResultClass={result}")

    def new(self, class_name, **properties):
        """An instance for a method's argument, as the text that it is there."""
        types = self.types(class_name)

        def line(name, value):
            return f"<PROPERTY NAME={quoteattr(name)} TYPE={quoteattr(types[name])}><VALUE>{escape(str(value))}</VALUE></PROPERTY>"

        lines = "".join(line(name, value) for name, value in properties.items())
        return f"<INSTANCE CLASSNAME={quoteattr(class_name)}>{lines}</INSTANCE>"

    def edited(self, instance, **properties):
        """The instance with these properties changed, for a method's argument: its id, and the changes."""
        return self.new(instance.class_name, InstanceID=instance["InstanceID"], **properties)

    def embedded(self, text):
        """An instance that came out of a method."""
        element = ElementTree.fromstring(text)
        instance = Instance(element.get("CLASSNAME"), None)
        instance.update((child.get("NAME"), child.findtext("VALUE")) for child in element.findall("PROPERTY"))
        arrays = element.findall("PROPERTY.ARRAY")
        instance.update((child.get("NAME"), [value.text for value in child.iter("VALUE")]) for child in arrays)
        return instance

    def invoke(self, path, method, **arguments):
        """Calls a method: its return code, and what came out."""
        body = ElementTree.Element(f"{{{path.uri}}}{method}_INPUT")
        for name, value in arguments.items():
            argument = ElementTree.SubElement(body, f"{{{path.uri}}}{name}")
            if isinstance(value, Path):
                value.write(argument)
            else:
                argument.text = str(value)
        answer = self.wsman.invoke(f"{path.uri}/{method}", path.uri, body, selector_set=path.selectors())
        out = properties(answer.find(f"s:Body/{{*}}{method}_OUTPUT", NAMESPACES))
        return int(out.pop("ReturnValue")), out

    def types(self, class_name):
        """The types of a class's properties."""
        if class_name not in self.classes:
            path = Path(CLASSES, {"__cimnamespace": "root/virtualization/v2", "ClassName": class_name})
            body = self.wsman.get(path.uri, selector_set=path.selectors())
            self.classes[class_name] = {
                child.get("NAME"): child.get("TYPE") for child in body.iter() if local(child).startswith("PROPERTY")
            }
        return self.classes[class_name]
