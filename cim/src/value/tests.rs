use super::*;
use proptest::prelude::*;

fn parsed(cim_type: CimType, text: &str) -> Option<Value> {
    cim_type.parse("P", text).ok()
}

#[test]
fn text_becomes_what_the_type_asks_for() {
    let cases: [(CimType, &str, Value); 15] = [
        (CimType::Boolean, "tRuE", true.into()),
        (CimType::Boolean, " 0 ", false.into()),
        (CimType::Uint8, " +255\n", 255u8.into()),
        (CimType::Uint16, "0xFF", 255u16.into()),
        (CimType::Uint64, "18446744073709551615", u64::MAX.into()),
        (CimType::Sint8, "-0x80", i8::MIN.into()),
        (CimType::Sint64, "-9223372036854775808", i64::MIN.into()),
        (CimType::Real32, "1.0030000e+02", 100.3f32.into()),
        (CimType::Real64, "-INF", f64::NEG_INFINITY.into()),
        (CimType::Char16, "!", Value::Char16(33)),
        (CimType::Char16, "33", Value::Char16(33)),
        (CimType::Char16, "7", Value::Char16(55)),
        (CimType::String, " a ", " a ".into()),
        (CimType::String, "", "".into()),
        (CimType::Reference("C".into()), "C.K=\"1\"", ObjectPath::parse("C.K=\"1\"").unwrap().into()),
    ];
    for (cim_type, text, value) in cases {
        assert_eq!(parsed(cim_type, text), Some(value), "{text}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |cim_type: CimType, text: &str| cim_type.parse("P", text).unwrap_err().to_string();
    assert_eq!(refused(CimType::Uint8, "256"), "P: \"256\" is not a uint8 (0 to 255)");
    assert_eq!(refused(CimType::Sint8, "-129"), "P: \"-129\" is not a sint8 (-128 to 127)");
    assert_eq!(refused(CimType::Boolean, "yes"), "P: \"yes\" is not a boolean (true or false)");
    for text in ["", "1.5", "++1", "+-1", "1_000", "0x", "１", "99999999999999999999999999999999999999999"] {
        assert_eq!(parsed(CimType::Uint32, text), None, "{text}");
    }
    for text in ["", "1e400", "inf", "nan", "0x1", "1 2"] {
        assert_eq!(parsed(CimType::Real64, text), None, "{text}");
    }
    assert_eq!(parsed(CimType::Real32, "1e39"), None);
    assert!(refused(CimType::Uint8, &"9".repeat(1000)).len() < 200);
}

#[test]
fn values_conform_where_they_fit() {
    let conform = |cim_type: CimType, is_array, value: Value| cim_type.conform("P", is_array, value).ok();
    assert_eq!(conform(CimType::Uint8, false, 5u64.into()), Some(5u8.into()));
    assert_eq!(conform(CimType::Uint8, false, 256u64.into()), None);
    assert_eq!(conform(CimType::Real64, false, 5u8.into()), Some(5f64.into()));
    assert_eq!(conform(CimType::Uint8, false, 5f64.into()), None);
    assert_eq!(conform(CimType::String, false, 5u8.into()), None);
    assert_eq!(conform(CimType::Uint8, true, "5".into()), Some(vec![5u8].into()));
    assert_eq!(
        conform(CimType::Uint8, true, vec![Some("5"), None].into()),
        Some(vec![Some(5u8), None].into())
    );
    assert_eq!(conform(CimType::Uint8, false, vec![5u8].into()), None);
    assert_eq!(conform(CimType::Uint8, true, vec![vec![5u8]].into()), None);
    assert_eq!(conform(CimType::Boolean, false, Value::Null), Some(Value::Null));
    let inner = Value::from(Instance::new("C"));
    assert_eq!(conform(CimType::String, false, inner.clone()), Some(inner.clone()));
    assert_eq!(conform(CimType::Uint8, false, inner), None);
}

proptest! {
    #[test]
    fn what_is_written_is_read_the_same(wide: u64, negative: i64, real: f64, narrow: f32, unit in 32u16..0xd800) {
        let values: [Value; 5] = [wide.into(), negative.into(), real.into(), narrow.into(), Value::Char16(unit)];
        for value in values.into_iter().filter(|value| value.as_f64().is_none_or(|it| !it.is_nan())) {
            prop_assert_eq!(value.cim_type().unwrap().parse("", &value.to_string()), Ok(value));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,30}|[-+0-9xXeE.]{0,12}") {
        for cim_type in [CimType::Uint8, CimType::Sint64, CimType::Real32, CimType::Char16, CimType::DateTime] {
            _ = cim_type.parse("", &text);
        }
    }
}
