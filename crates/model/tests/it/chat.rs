//! Chat templates: the Hugging Face dialect, and templates that mean harm.

use lockstep_model::chat::{ChatError, ChatOptions, ChatTemplate, Message};

use crate::source_data::fixture;

fn messages() -> Vec<Message> {
    vec![
        Message::new("system", " Be kind. "),
        Message::new("user", "Hi <you> & \"me\""),
        Message::new("assistant", "Yes?"),
    ]
}

fn render(source: &str, options: &ChatOptions) -> Result<String, ChatError> {
    ChatTemplate::new(source)?.render(&messages(), options)
}

fn text(source: &str) -> String {
    render(source, &ChatOptions::default()).unwrap()
}

#[test]
fn without_a_template_the_contents_are_joined_by_lines() {
    let template = ChatTemplate::of_model(None).unwrap();
    let told = [Message::new("user", "Once"), Message::new("user", "upon")];
    assert_eq!(template.render(&told, &ChatOptions::default()).unwrap(), "Once\nupon");
}

#[derive(serde::Deserialize)]
struct Case {
    template: String,
    expected: String,
}

/// Templates in the manner of ChatML, Llama 3 and Mistral, against Python's Jinja2 set up as transformers sets it up.
#[test]
fn renderings_equal_those_of_jinja2() {
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(fixture("chat.json")).unwrap()).unwrap();
    assert!(cases.len() >= 6);
    let options = ChatOptions {
        bos_token: "<s>".into(),
        eos_token: "</s>".into(),
        add_generation_prompt: true,
        now_unix_seconds: 951_782_400,
    };
    for Case { template, expected } in cases {
        assert_eq!(render(&template, &options).unwrap(), expected, "{template}");
    }
}

/// `trim_blocks` and `lstrip_blocks`: a block's own line leaves nothing behind.
#[test]
fn blocks_on_their_own_lines_leave_no_space() {
    assert_eq!(
        text(
            "{% for m in messages %}\n  {% if m.role == 'user' %}\nuser\n  {% else %}\nother\n  {% endif %}\n{% endfor %}\n"
        ),
        "other\nuser\nother\n"
    );
    assert_eq!(text("a\n  {%- for m in messages -%}  x  {%- endfor +%}\nb"), "axxx\nb");
}

#[test]
fn text_that_looks_like_a_tag_is_left_alone() {
    assert_eq!(
        text("{% raw %}{% endfor %}{{{% endraw %}|{{ '{% else %}' }}{# {% endfor %} #}"),
        "{% endfor %}{{|{% else %}"
    );
}

#[test]
fn python_helpers() {
    assert_eq!(
        text("{{ 'a,b'.split(',')[1] }}{{ 'ab'.upper() }}{{ ' x'.lstrip() }}{{ 'x'.startswith('x') }}"),
        "bABxTrue"
    );
    assert_eq!(text("{{ {'a': [1, 2], 'b': '<'}|tojson }}"), "{\"a\": [1, 2], \"b\": \"<\"}");
    assert_eq!(text("{{ [1]|tojson(indent=2) }}"), "[\n  1\n]");
    assert_eq!(
        text("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'a': 1}.get('z', 7) }}"),
        "a17"
    );
    assert_eq!(
        text(
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
        ),
        "3"
    );
    assert_eq!(
        text("{{ bos_token }}{% if tools %}t{% endif %}{{ messages[1].content }}"),
        "Hi <you> & \"me\""
    );
}

#[test]
fn the_date_is_an_argument() {
    let at = |now_unix_seconds| ChatOptions { now_unix_seconds, ..ChatOptions::default() };
    let source = "{{ strftime_now('%d %b %Y, %A %H:%M:%S, %B %y %%') }}";
    assert_eq!(render(source, &at(951_782_400)).unwrap(), "29 Feb 2000, Tuesday 00:00:00, February 00 %");
    assert_eq!(render(source, &at(1_763_683_199)).unwrap(), "20 Nov 2025, Thursday 23:59:59, November 25 %");
    render(source, &at(u64::MAX)).unwrap();
    assert!(render("{{ strftime_now('%Q') }}", &at(0)).is_err());
}

#[test]
fn raise_exception_is_told_apart_from_failure() {
    assert!(
        matches!(render("{{ raise_exception('roles') }}", &ChatOptions::default()), Err(ChatError::Raised(m)) if m == "roles")
    );
    assert!(matches!(render("{{ messages.nothing() }}", &ChatOptions::default()), Err(ChatError::Render(_))));
    assert!(matches!(ChatTemplate::new("{% for %}"), Err(ChatError::Syntax(_))));
    assert!(matches!(ChatTemplate::new(&" ".repeat(300_000)), Err(ChatError::TooLong { .. })));
}

#[test]
fn break_and_continue() {
    let roles = "{% for m in messages %}{% if m.role == 'assistant' %}{% break %}{% endif %}{{ m.role }},{% endfor %}";
    assert_eq!(text(roles), "system,user,");
    let skip = "{% for i in range(5) %}{% if i % 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}";
    assert_eq!(text(skip), "024");
    assert!(matches!(ChatTemplate::new("{% break %}"), Err(ChatError::Syntax(_))));
}

/// Prices are paid in full and nothing else changes: filters still take positional and named arguments.
#[test]
fn metered_filters_give_what_they_gave() {
    for (source, expected) in [
        ("{{ 'a\nb'|indent(2) }}", "a\n  b"),
        ("{{ 'a\nb'|indent(width=1, first=true) }}", " a\n b"),
        ("{{ [1, 2]|join(', ') }}{{ [1, 2]|join(d='-') }}{{ 'abc'|join('.') }}", "1, 21-2a.b.c"),
        ("{{ messages|map(attribute='role')|join('|') }}", "system|user|assistant"),
        ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "1"),
        ("{{ ['b', 'a']|sort|join }}{{ ['a', 'b']|map('upper')|list|tojson }}", "ab[\"A\", \"B\"]"),
        ("{{ '%s is %03d'|format('x', 7) }}{{ 'aXa'|replace('a', 'bb') }}", "x is 007bbXbb"),
        ("{{ [1, 2, 3]|batch(2)|list|length }}{{ [1, 2, 3]|slice(3)|list|length }}", "23"),
    ] {
        assert_eq!(text(source), expected, "{source}");
    }
}

#[test]
fn one_filter_on_a_large_value_runs_out_of_fuel() {
    // Lazy up to 32 levels; beyond, the engine itself builds the list (see the text of the module).
    let doubled =
        "{% set ns = namespace(x=[0]) %}{% for i in range(30) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    let nested =
        "{% set ns = namespace(x=[0]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let captured = "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}";
    let replaced = "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x|replace('a', 'aa') %}{% endfor %}";
    let method = replaced.replace("|replace", ".replace");
    let joined = "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}";
    let mut sources: Vec<String> = [
        "{{ 'a\nb'|indent(99999999999) }}",
        "{{ 'a\nb'|indent(width=99999999999) }}",
        "{{ [1]|batch(99999999999, 'x') }}",
        "{{ [1]|slice(99999999999, 'x') }}",
        "{{ ([1] * 90000000)|list|length }}",
        "{{ ([1] * 90000000)|map('string')|list|length }}",
        "{{ ['a'] * 90000000 }}",
        "{{ range(90000)|join('a' * 100000) }}",
        captured,
        replaced,
        joined,
        &method,
    ]
    .map(String::from)
    .to_vec();
    for walk in
        ["|list|length", "|sum", "|join|length", "|tojson|length", "|string|length", "|map('string')|first"]
    {
        sources.push(format!("{doubled}{{{{ ns.x{walk} }}}}"));
    }
    for print in ["|tojson|length", "|string|length", "|pprint|length", ""] {
        sources.push(format!("{nested}{{{{ ns.x{print} }}}}"));
    }
    for source in sources {
        let error = render(&source, &ChatOptions::default()).expect_err(&source);
        assert!(matches!(error, ChatError::OutOfFuel), "{source}: {error}");
    }
    for wide in ["{{ '%99999d'|format(1) }}", "{{ '%*d'|format(99999, 1) }}", "{{ '%.99999f'|format(1.0) }}"]
    {
        let error = render(wide, &ChatOptions::default()).expect_err(wide);
        assert!(matches!(&error, ChatError::Render(e) if e.to_string().contains("999")), "{wide}: {error}");
    }
}

/// The budgets are those of one rendering, not of a template.
#[test]
fn a_template_renders_again_after_it_ran_out() {
    let template = ChatTemplate::new("{% if messages|length > 1 %}{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}{% endif %}x").unwrap();
    let options = ChatOptions::default();
    for _ in 0..3 {
        assert!(matches!(template.render(&messages(), &options), Err(ChatError::OutOfFuel)));
        assert_eq!(template.render(&messages()[..1], &options).unwrap(), "x");
    }
    // A long conversation of ordinary size fits.
    let long: Vec<Message> =
        (0..2_000).map(|i| Message::new("user", format!(" turn {i} ").repeat(40))).collect();
    let told = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}";
    assert!(ChatTemplate::new(told).unwrap().render(&long, &options).unwrap().len() > 600_000);
}

#[test]
fn hostile_templates_run_out_of_fuel() {
    let loops = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
    let filtered =
        "{% for a in range(90000) %}{% for b in range(90000) if false %}{% else %}{% endfor %}{% endfor %}";
    let lists = "{% set x = range(900)|list %}{% for a in x %}{% for b in x %}{% for c in x %}{% endfor %}{% endfor %}{% endfor %}";
    let or_else = "{% set x = range(900)|list %}{% for a in x %}{% for b in x %}{% for c in [] %}{% else %}{% endfor %}{% endfor %}{% endfor %}";
    let calls = "{% macro f(n) %}{% if n > 0 %}{% for i in [1, 2, 3, 4, 5, 6, 7, 8] %}{{ f(n - 1) }}{% endfor %}{% endif %}{% endmacro %}{{ f(6) }}";
    let output = "{% for a in range(20000) %}{{ '0123456789' * 1000 }}{% endfor %}";
    for source in [loops, filtered, lists, or_else, calls, output] {
        let error = render(source, &ChatOptions::default()).unwrap_err();
        assert!(matches!(error, ChatError::OutOfFuel), "{source}: {error}");
    }
    let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(render(deep, &ChatOptions::default()).is_err());
    assert!(render("{% include 'chat' %}", &ChatOptions::default()).is_err());
}
