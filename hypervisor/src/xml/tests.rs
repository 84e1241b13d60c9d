use super::*;

const DOMAIN: &str = r#"<domain type="qemu" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>web &amp; mail</name>
  <uuid>11111111-1111-4111-8111-111111111111</uuid>
  <genid>22222222-2222-4222-8222-222222222222</genid>
  <metadata><libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0"><libosinfo:os id="http://debian.org/debian/12"/></libosinfo:libosinfo></metadata>
  <sysinfo type="smbios"><system><entry name="uuid">11111111-1111-4111-8111-111111111111</entry><entry name="serial">s</entry></system></sysinfo>
  <os><type arch="x86_64">hvm</type><nvram template="/t.fd">/var/nvram/web.fd</nvram></os>
  <devices>
    <disk type="block" device="disk"><driver name="qemu" type="raw" cache="none"/><source dev="/dev/vg/a" index="3"><seclabel model="dac" relabel="no"/><reservations managed="yes"/></source><backingStore/><target dev="vda" bus="virtio"/><serial>S1</serial><alias name="virtio-disk0"/></disk>
    <disk type="file" device="cdrom"><source file="/iso"/><target dev="sda" bus="sata"/><readonly/><alias name="ua-cd"/></disk>
    <interface type="bridge"><mac address="00:16:3e:01:02:03"/><source bridge="br0"/><target dev="vnet7"/><model type="virtio"/><alias name="net0"/></interface>
    <interface type="hostdev" managed="yes"><mac address="52:54:00:01:02:03"/><source><address type="pci"/></source></interface>
    <serial type="file"><source path="/log/web"/><target port="0"/></serial>
    <channel type="unix"><source mode="bind" path="/run/agent.sock"/><target type="virtio" name="org.qemu.guest_agent.0" state="connected"/></channel>
    <graphics type="vnc" port="5905" autoport="no" listen="0.0.0.0"/>
    <hostdev mode="subsystem" type="pci"/>
    <filesystem type="mount"/>
  </devices>
  <qemu:commandline><qemu:arg value="-foo"/></qemu:commandline>
</domain>"#;

/// One line per element: path, attributes, text.
fn outline(xml: &str) -> Vec<String> {
    fn walk(element: &Element, path: &str, lines: &mut Vec<String>) {
        let name = element.prefix.as_ref().map(|p| format!("{p}:")).unwrap_or_default() + &element.name;
        let path = format!("{path}/{name}");
        let attributes: String = element.attributes.iter().map(|(k, v)| format!(" {k}={v}")).collect();
        lines.push(format!("{path}{attributes} {}", text(element).unwrap_or_default()).trim_end().to_owned());
        element.children.iter().filter_map(XMLNode::as_element).for_each(|child| walk(child, &path, lines));
    }
    let mut lines = vec![];
    walk(&parse(xml).unwrap(), "", &mut lines);
    lines
}

/// Lines that `after` lacks (`-`) and has more (`+`).
fn difference(before: &str, after: &str) -> Vec<String> {
    let (before, after) = (outline(before), outline(after));
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("-{line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+{line}"));
    gone.chain(new).collect()
}

#[test]
fn what_is_not_understood_is_kept() {
    let same = edit(DOMAIN, |_| ()).unwrap();
    assert_eq!(outline(&same), outline(DOMAIN));
    assert!(
        same.contains("xmlns:libosinfo=") && same.contains("xmlns:qemu=") && same.contains("web &amp; mail")
    );
    assert_eq!(name(&same).unwrap(), "web & mail");
    assert_eq!(disk_targets(&same).unwrap(), ["vda", "sda"]);
}

#[test]
fn a_disk_moves_to_a_file_and_keeps_its_identity() {
    let after = set_disk_source(DOMAIN, "vda", Path::new("/x/a&b.qcow2"), "qcow2").unwrap();
    let disk = "/domain/devices/disk";
    assert_eq!(
        difference(DOMAIN, &after),
        [
            format!("-{disk} device=disk type=block"),
            format!("-{disk}/driver cache=none name=qemu type=raw"),
            format!("-{disk}/source dev=/dev/vg/a index=3"),
            format!("-{disk}/source/reservations managed=yes"),
            format!("-{disk}/backingStore"),
            format!("+{disk} device=disk type=file"),
            format!("+{disk}/driver cache=none name=qemu type=qcow2"),
            format!("+{disk}/source file=/x/a&b.qcow2"),
        ]
    );
    assert!(matches!(
        set_disk_source(DOMAIN, "vdz", Path::new("/x"), "raw"),
        Err(Error::XmlUnexpected { .. })
    ));
}

#[test]
fn a_test_copy_shares_nothing_with_the_original() {
    let networks = NetworkChoice::Map([("br0".to_owned(), "test-net".to_owned())].into());
    let vm = VmId::random();
    let copy = TestCopy {
        name: "web - Test".into(),
        vm,
        networks,
        adapters: BTreeMap::new(),
        nvram: Some("/n/copy.fd".into()),
    };
    let after = for_test_copy(DOMAIN, &copy).unwrap();
    let lines = outline(&after);
    let has = |line: &str| lines.iter().any(|l| l == line);
    let has_part = |part: &str| lines.iter().any(|l| l.contains(part));
    assert!(has("/domain/name web - Test"));
    assert!(has(&format!("/domain/uuid {vm}")));
    assert!(has(&format!("/domain/sysinfo/system/entry name=uuid {vm}")));
    assert!(has("/domain/os/nvram template=/t.fd /n/copy.fd"));
    assert!(has("/domain/devices/interface type=network"));
    assert!(has("/domain/devices/interface/source network=test-net"));
    assert!(has("/domain/devices/interface/model type=virtio"));
    assert!(has("/domain/devices/interface type=user"));
    assert!(has("/domain/devices/interface/link state=down"));
    assert!(has_part("/domain/devices/interface/mac address=00:16:3e:"));
    let macs = BTreeMap::from([("52:54:00:aa:bb:cc".to_owned(), "lab".to_owned())]);
    let card = "<interface type=\"bridge\"><mac address=\"52:54:00:AA:BB:CC\"/><source bridge=\"br0\"/></interface></devices>";
    let with_own =
        for_test_copy(&DOMAIN.replace("</devices>", card), &TestCopy { adapters: macs, ..copy.clone() });
    let with_own = outline(&with_own.unwrap());
    let count = |network: &str| {
        let line = format!("/domain/devices/interface/source network={network}");
        with_own.iter().filter(|own| **own == line).count()
    };
    assert_eq!((count("lab"), count("test-net")), (1, 1), "a card's own network comes before the map");
    assert!(has(&format!("/domain/devices/serial/source path=/log/web.{vm}")));
    assert!(has("/domain/devices/graphics autoport=yes listen=0.0.0.0 type=vnc"));
    for gone in
        ["/hostdev", "/filesystem", "agent.sock", "br0", "22222222-", "11111111-", "01:02:03", "vnet7"]
    {
        assert!(!has_part(gone), "{gone} is still there");
    }
}

#[test]
fn what_a_run_left_behind_goes_and_the_users_aliases_stay() {
    let running = DOMAIN.replacen("<domain type", "<domain id=\"4\" type", 1);
    let after = remove_managed_parts(&running).unwrap();
    assert!(!outline(&after).iter().any(|line| line.contains("id=4")));
    let gone = difference(DOMAIN, &after);
    assert!(gone.iter().any(|line| line.ends_with("alias name=virtio-disk0")));
    assert!(!gone.iter().any(|line| line.contains("ua-cd")));
    assert!(!outline(&after).iter().any(|line| line.contains("vnet7") || line.contains("index=3")));
}

#[test]
fn a_generation_id_changes_only_where_there_is_one() {
    assert_ne!(outline(&set_new_genid(DOMAIN).unwrap()), outline(DOMAIN));
    let without = DOMAIN.replace("<genid>22222222-2222-4222-8222-222222222222</genid>", "");
    assert_eq!(outline(&set_new_genid(&without).unwrap()), outline(&without));
    assert_eq!(vm(&set_vm(DOMAIN, VmId(Uuid::nil())).unwrap()).unwrap(), VmId(Uuid::nil()));
}

#[test]
fn text_that_is_no_domain_is_refused() {
    assert!(matches!(set_name("<network/>", "x"), Err(Error::XmlUnexpected { .. })));
    assert!(matches!(set_name("<domain>", "x"), Err(Error::XmlSyntax { .. })));
    assert!(matches!(name("<domain/>"), Err(Error::XmlUnexpected { .. })));
}

#[test]
fn a_processor_is_replaced_by_the_one_that_is_named_for_it() {
    let with = |cpu: &str| DOMAIN.replace("<devices>", &format!("{cpu}<devices>"));
    let names = [("Skylake-Server", "Broadwell"), ("host-passthrough", "host-model"), ("maximum", "qemu64")];
    let names: BTreeMap<_, _> = names.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    for (cpu, expected) in [
        (
            r#"<cpu mode="custom" match="exact" check="full"><model fallback="allow">Skylake-Server</model><vendor>Intel</vendor><topology sockets="1" cores="2" threads="1"/><feature policy="require" name="pku"/></cpu>"#,
            vec!["+/domain/cpu match=exact mode=custom", "+/domain/cpu/model fallback=forbid Broadwell"],
        ),
        (
            r#"<cpu mode="host-passthrough" check="none" migratable="on"/>"#,
            vec!["+/domain/cpu mode=host-model"],
        ),
        (
            r#"<cpu mode="maximum"/>"#,
            vec!["+/domain/cpu match=exact mode=custom", "+/domain/cpu/model fallback=forbid qemu64"],
        ),
        (r#"<cpu mode="custom"><model>Other</model></cpu>"#, vec![]),
        ("", vec![]),
    ] {
        let after = rename_cpu(&with(cpu), &names).unwrap();
        let new: Vec<_> =
            difference(&with(cpu), &after).into_iter().filter(|line| line.starts_with('+')).collect();
        assert_eq!(new, expected, "{cpu}");
        assert_eq!(after.contains("cores=\"2\""), cpu.contains("cores"), "the topology stays");
    }
}
