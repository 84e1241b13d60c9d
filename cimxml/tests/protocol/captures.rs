//! What pywbem sends, byte by byte, and what it gets.

use crate::common::{captured, captures, error_of, world};

#[tokio::test]
async fn every_captured_request_is_answered() {
    let expected = |name: &str| match name {
        "pywbem-Invoke-arrays-01" | "pywbem-Invoke-static-01" => Some(17),
        "pywbem-CloseEnumeration-02"
        | "pywbem-OpenEnumerateInstancePaths-02"
        | "pywbem-OpenEnumerateInstances-02" => Some(21),
        _ => None,
    };
    let mut seen = 0;
    for file in std::fs::read_dir(captures()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let name = name.strip_suffix(".req").unwrap();
        let answer = world().ask(captured(name)).await;
        let code = error_of(&answer).map(|(code, _)| code);
        assert_eq!(code, expected(name), "{name}: {answer}");
        assert!(answer.contains("<MESSAGE ID=\"1001\" PROTOCOLVERSION=\"1.0\"><SIMPLERSP>"), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 34);
}
