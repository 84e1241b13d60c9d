//! The provider on a real host: libvirt, catalog and owners in this process.

mod support;

use cim::{Instance, Name, Provider, Role, Status, Value, embedded};
use hvr::schema::V2;
use model::VmId;
use support::{Stage, code, job, next, number, out, target, vm_path};

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_found_run_and_told_of() {
    let stage = Stage::new().await;
    let mut events = stage
        .events(
            "SELECT * FROM __InstanceOperationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ComputerSystem'",
        )
        .await;
    let vm = stage.define("web").await;
    let path = vm_path(vm);
    let event = next(&mut events).await;
    assert!(event.class.is("__InstanceCreationEvent"), "{event:?}");
    assert_eq!(target(&event).text("ElementName"), Some("web"));

    let found = stage
        .query("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER AND ElementName = \"web\"")
        .await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0], stage.get(&path).await.unwrap());
    assert_eq!(stage.all("CIM_ComputerSystem").await.len(), 2, "the host and the VM");
    let guid = vm.to_string().to_lowercase();
    let of = format!("{{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{guid}'}}");
    let settings = format!(
        "ASSOCIATORS OF {of} WHERE AssocClass = Msvm_SettingsDefineState ResultClass = Msvm_VirtualSystemSettingData"
    );
    let settings = stage.query(&settings).await;
    assert_eq!(settings.len(), 1);
    let id = settings[0].text("InstanceID").unwrap();
    for (class, count) in [
        ("Msvm_MemorySettingData", 1),
        ("Msvm_StorageAllocationSettingData", 1),
        ("Msvm_ResourceAllocationSettingData", 2),
        ("Msvm_SerialPortSettingData", 0),
    ] {
        let parts = format!(
            "ASSOCIATORS OF {{Msvm_VirtualSystemSettingData.InstanceID='{id}'}} \
             WHERE AssocClass = Msvm_VirtualSystemSettingDataComponent ResultClass = {class}"
        );
        assert_eq!(stage.query(&parts).await.len(), count, "{class}");
    }
    let services = format!("ASSOCIATORS OF {of} WHERE ResultClass = Msvm_ReplicationService");
    let services = stage.query(&services).await;
    assert_eq!(services[0].path, Some(stage.service().await));

    let management = stage.all("Msvm_VirtualSystemManagementService").await.remove(0).path.unwrap();
    let about = [("SettingData", vec![settings[0].path.clone().unwrap()].into())];
    let result = stage.call(&management, "GetSummaryInformation", &about).await;
    let summaries = out(&result, "SummaryInformation").as_array().unwrap();
    let summary = summaries[0].as_instance().unwrap();
    assert_eq!((summaries.len(), summary.text("ElementName")), (1, Some("web")));
    assert_eq!((number(summary, "EnabledState"), number(summary, "NumberOfProcessors")), (3, 1));

    for (requested, enabled) in [(2u16, 2), (9, 9), (2, 2), (3, 3)] {
        let result = stage.call(&path, "RequestStateChange", &[("RequestedState", requested.into())]).await;
        assert_eq!(code(&result), 0, "{result:?}");
        loop {
            let event = next(&mut events).await;
            assert!(event.class.is("__InstanceModificationEvent"));
            assert_ne!(event.get("PreviousInstance"), event.get("TargetInstance"));
            if number(target(&event), "EnabledState") == enabled {
                break;
            }
        }
        assert_eq!(number(&stage.get(&path).await.unwrap(), "EnabledState"), enabled);
    }
}

fn settings(properties: &[(&str, Value)]) -> Value {
    let mut instance = Instance::new("Msvm_ReplicationSettingData");
    properties.iter().for_each(|(name, value)| instance.set(*name, value.clone()));
    let schema = hvr::schema::schema(V2);
    embedded::write(&schema.conform(&instance).unwrap(), &schema).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_a_return_code_with_an_error_that_can_be_asked_for() {
    let mut stage = Stage::new().await;
    let vm = stage.define("web").await;
    let service = stage.service().await;
    let create = async |stage: &Stage, properties: &[(&str, Value)]| {
        let arguments =
            [("ComputerSystem", vm_path(vm).into()), ("ReplicationSettingData", settings(properties))];
        stage.call(&service, "CreateReplicationRelationship", &arguments).await
    };
    let to: (&str, Value) = ("RecoveryConnectionPoint", "nowhere.invalid".into());

    let result = create(&stage, &[to.clone(), ("RecoveryHistory", 25u16.into())]).await;
    assert_eq!(code(&result), 32773);
    let error = stage.error_of(&job(&result)).await;
    assert_eq!(error.text("Message"), Some("RecoveryHistory 25: allowed are 0 to 24"));
    assert!(error.text("ErrorSource").unwrap().contains(&vm.to_string().to_uppercase()));

    // What cannot be read is named with its place.
    let value = "<INSTANCE CLASSNAME=\"Msvm_ReplicationSettingData\">\n<PROPERTY NAME=\"RecoveryHistory\" \
                 TYPE=\"uint16\"><VALUE>many</VALUE></PROPERTY></INSTANCE>";
    for (text, wanted, said) in [
        (
            value,
            32773,
            "ReplicationSettingData is no instance of Msvm_ReplicationSettingData: line 2, column ",
        ),
        (&value[..60], 32773, "ReplicationSettingData is no instance of Msvm_ReplicationSettingData: line "),
        ("instance of Nope {};", 32773, "Nope"),
        (
            "<INSTANCE CLASSNAME=\"Msvm_Error\"/>",
            32776,
            "is an instance of Msvm_Error; Msvm_ReplicationSettingData is expected",
        ),
        (
            "<INSTANCE CLASSNAME=\"Msvm_ReplicationSettingData\"><PROPERTY NAME=\"Nope\"/></INSTANCE>",
            32773,
            "Nope",
        ),
    ] {
        let arguments = [("ComputerSystem", vm_path(vm).into()), ("ReplicationSettingData", text.into())];
        let result = stage.call(&service, "CreateReplicationRelationship", &arguments).await;
        assert_eq!(code(&result), wanted, "{text}");
        let error = stage.error_of(&job(&result)).await;
        let message = error.text("Message").unwrap();
        assert!(message.contains(said), "{message}");
    }

    // Nobody answers there: found out by the job.
    let result = create(&stage, std::slice::from_ref(&to)).await;
    assert_eq!(code(&result), 4096);
    let ended = stage.ended(&job(&result)).await;
    assert_eq!((number(&ended, "JobState"), number(&ended, "ErrorCode")), (10, 32777), "{ended:?}");
    assert_eq!(number(&ended, "JobType"), 91);
    assert_eq!(stage.all("Msvm_ReplicationRelationship").await, []);

    let unknown = [("ComputerSystem", Value::from(vm_path(VmId::random())))];
    assert_eq!(code(&stage.call(&service, "RevertFailover", &unknown).await), 32777);
    assert_eq!(code(&stage.call(&service, "RevertFailover", &[]).await), 32773);
    let own = [("ComputerSystem", Value::from(vm_path(vm)))];
    assert_eq!(code(&stage.call(&service, "RevertFailover", &own).await), 32775, "it is not replicated");
    assert_eq!(code(&stage.call(&service, "ImportInitialReplica", &own).await), 32775);

    stage.caller.role = Role::Operator;
    let result = create(&stage, std::slice::from_ref(&to)).await;
    assert_eq!(code(&result), 32769);
    let error = stage.error_of(&job(&result)).await;
    assert!(error.text("Message").unwrap().contains("takes the role administrator"), "{error:?}");

    let nothing = Name::from("NoSuchMethod");
    let refused = stage.hvr.invoke(&stage.caller, &service, &nothing, vec![]).await.unwrap_err();
    assert_eq!(refused.status, Status::MethodNotFound);
    let gone = stage.get(&vm_path(VmId::random())).await.unwrap_err();
    assert_eq!(gone.status, Status::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relationship_is_shown_counted_and_removed() {
    let stage = Stage::new().await;
    let (vm, other) = (stage.adopt_replica("web"), stage.adopt_replica("db"));
    assert_eq!(stage.all("Msvm_ReplicationRelationship").await.len(), 2);
    let found = stage
        .query(&format!(
            "SELECT * FROM Msvm_ReplicationSettingData WHERE VirtualSystemIdentifier LIKE \"{vm}\""
        ))
        .await;
    assert_eq!(found[0].text("PrimaryConnectionPoint"), Some("b.example"));
    let of = format!("{{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{other}'}}");
    let relationships = format!("ASSOCIATORS OF {of} WHERE AssocClass = Msvm_SystemReplicationRelationship");
    let relationships = stage.query(&relationships).await;
    assert_eq!((relationships.len(), number(&relationships[0], "ReplicationState")), (1, 2));
    assert_eq!(relationships[0].text("ElementName"), Some("db"));
    let service = stage.service().await;
    let served = format!("ASSOCIATORS OF {{{}}} WHERE ResultClass = Msvm_ComputerSystem", service.relative());
    assert_eq!(stage.query(&served).await.len(), 3, "the host and its VMs");

    let own = ("ComputerSystem", Value::from(vm_path(vm)));
    let suspend = [("RequestedState", Value::from(7u16))];
    let result = stage.call(&vm_path(vm), "RequestReplicationStateChange", &suspend).await;
    assert_eq!(code(&result), 32775, "its first copy is not complete");
    let result = stage.call(&service, "ResetReplicationStatistics", std::slice::from_ref(&own)).await;
    assert_eq!(code(&result), 4096);
    assert_eq!(number(&stage.ended(&job(&result)).await, "JobState"), 7);
    let result = stage.call(&service, "GetReplicationStatistics", std::slice::from_ref(&own)).await;
    let texts = out(&result, "ReplicationStatistics").as_array().unwrap();
    let schema = stage.hvr.schema(&V2.into()).unwrap();
    let counted = embedded::read_as(texts[0].as_str().unwrap(), &schema).unwrap();
    assert_eq!(number(&counted, "ReplicationSuccessCount"), 0);
    assert!(matches!(counted.get("StartStatisticTime"), Some(Value::DateTime(_))), "{counted:?}");
    assert_eq!(
        out(&result, "ReplicationHealthIssues").as_array().unwrap().len(),
        2,
        "no first copy, no authorization"
    );

    let mut events = stage
        .events("SELECT * FROM CIM_InstDeletion WHERE SourceInstance ISA 'Msvm_ReplicationRelationship'")
        .await;
    let result = stage.call(&service, "RemoveReplicationRelationship", &[own]).await;
    assert_eq!(code(&result), 4096);
    let event = next(&mut events).await;
    let gone = event.get("SourceInstance").and_then(Value::as_instance).unwrap();
    assert_eq!(gone.text("ElementName"), Some("web"));
    assert_eq!(number(&stage.ended(&job(&result)).await, "JobState"), 7);
    assert_eq!(stage.all("Msvm_ReplicationRelationship").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_ended_cannot_be_cancelled() {
    let stage = Stage::new().await;
    let to =
        [("RecoveryConnectionPoint", Value::from("nowhere.invalid")), ("AuthenticationType", 2u16.into())];
    let result = stage.call(&stage.service().await, "TestReplicationConnection", &to).await;
    let job = job(&result);
    stage.ended(&job).await;
    let terminate = [("RequestedState", Value::from(4u16))];
    assert_eq!(code(&stage.call(&job, "RequestStateChange", &terminate).await), 4097);
    let suspend = [("RequestedState", Value::from(3u16))];
    assert_eq!(code(&stage.call(&job, "RequestStateChange", &suspend).await), 1);
}
