"""python-dracclient's WS-Management client: PORT USER PASSWORD VM. Prints what the host answered."""
import sys
import warnings

from dracclient.wsman import Client

warnings.simplefilter("ignore")  # It does not look at certificates, and its HTTP library says so each time.
BASE = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/"
SERVICE = {"CreationClassName": "Msvm_ReplicationService"}

port, user, password, vm = sys.argv[1:]
client = Client("localhost", user, password, port=int(port))


def names(answer):
    return [element.text for element in answer.iter(f"{{{BASE}Msvm_ComputerSystem}}ElementName")]


# One at a time: the second comes by a pull.
found = names(client.enumerate(BASE + "Msvm_ComputerSystem", max_elems=1))
assert sorted(found) == sorted(["a.example", vm]), found
query = f"SELECT * FROM Msvm_ComputerSystem WHERE ElementName = '{vm}'"
found = names(client.enumerate(BASE + "*", filter_query=query, filter_dialect="wql"))
assert found == [vm], found
for method in ["GetSystemCertificates", "StopService"]:
    answer = client.invoke(BASE + "Msvm_ReplicationService", method, SERVICE, {})
    print(method, answer.findtext(f".//{{{BASE}Msvm_ReplicationService}}ReturnValue"))
