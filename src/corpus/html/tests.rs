use super::*;

fn text(html: &str) -> String {
    convert(html).text
}

#[test]
fn blocks_become_markdown() {
    let html = "<!doctype html><html><head><title>T</title><style>p{}</style></head><body>\
        <nav><ul><li>Home</li></ul></nav><h1>Big <em>title</em></h1>\n<p>Some   <b>bold</b>\n text &amp; <a href=x>link</a>.\
        <p>Second<br>line &lt;x&gt;</p><script>if (a < b) {}</script><hr>\
        <blockquote><p>Said</p><p>twice</p></blockquote><img src=x alt='A picture'>tail</body></html>";
    assert_eq!(
        text(html),
        "# Big title\n\nSome bold text & link.\n\nSecond\nline <x>\n\n---\n\n> Said\n>\n> twice\n\nA picturetail\n"
    );
    assert_eq!(convert(html).title.as_deref(), Some("Big title"));
}

#[test]
fn lists_nest() {
    let html = "<ul><li>a<ul><li>b<li>c</ul><li><p>d</p><p>e</p></ul><ol start=9><li>x<li>y<pre>z\n  w</pre></ol>\
        <dl><dt>term<dd>meaning<dt>other<dd><p>one</p><p>two</p></dl>";
    assert_eq!(
        text(html),
        "- a\n  - b\n  - c\n- d\n\n  e\n\n9. x\n10. y\n\n    ```\n    z\n      w\n    ```\n\n\
         term\n: meaning\n\nother\n: one\n\n  two\n"
    );
}

#[test]
fn code_is_verbatim() {
    assert_eq!(
        text("<pre>\n<code class='hl language-rust'>fn a() {\n    b &lt; c;\n\n}\n</code></pre>"),
        "```rust\nfn a() {\n    b < c;\n\n}\n```\n"
    );
    assert_eq!(text("<pre>```\nx</pre>"), "````\n```\nx\n````\n");
    assert_eq!(text("use <code>a | `b`</code> or <code> c </code>now"), "use `` a | `b` `` or `c` now\n");
    assert_eq!(text("<p>```not a fence"), "\\```not a fence\n");
}

#[test]
fn tables_become_rows() {
    let html = "<table><caption>Sizes</caption><thead><tr><th>Name<th>Size</thead><tbody><tr><td>a|b<td><p>1</p>\
        <tr><td colspan=2>both</table>after";
    assert_eq!(text(html), "Sizes\n\n| Name | Size |\n| --- | --- |\n| a\\|b | 1 |\n| both |  |\n\nafter\n");
    // Layout: what is in it is not rows.
    assert_eq!(text("<table><tr><td><pre>1\n2</pre><td><pre>a\nb</pre></table>"), "```\n1\n2\n```\n\n```\na\nb\n```\n");
    assert_eq!(text("<table><tr><td>x<table><tr><td>1<td>2</table></table>"), "x\n\n| 1 | 2 |\n| --- | --- |\n");
}

#[test]
fn the_main_part_is_preferred() {
    let page = "<body><header>Site</header><main><h2>M</h2><article>x</article></main><footer>F</footer>";
    assert_eq!(text(page), "## M\n\nx\n");
    assert_eq!(text("<body>a<article>one</article>b"), "one\n");
    assert_eq!(text("<body>a<article>one</article><article>two</article>b"), "a\n\none\n\ntwo\n\nb\n");
    assert_eq!(text("<body>a<main> </main>b"), "a\n\nb\n");
    assert_eq!(convert("<title> Page </title><h2>x</h2>").title.as_deref(), Some("Page"));
    assert_eq!(convert("<h2>x</h2>").title.as_deref(), Some("x"));
    assert_eq!(convert("<p>x").title, None);
}

#[test]
fn what_is_not_read_is_dropped() {
    assert_eq!(
        text("a<template><p>t</p></template><noscript>n</noscript><svg><title>s</title><text>v</text></svg>b"),
        "ab\n"
    );
    // Not closed: ends with what it is in, or at a block that SVG cannot hold.
    assert_eq!(text("<div><nav>menu</div><p>text"), "text\n");
    assert_eq!(text("<svg><path d=x><p>text</p>"), "text\n");
    assert_eq!(text("<head><meta charset=utf-8><p>body without a tag"), "body without a tag\n");
    assert_eq!(text("<textarea><p>x</textarea>y<button>Copy</button><!-- c -->"), "y\n");
    assert_eq!(text(""), "");
}

#[test]
fn soup_is_survived() {
    assert_eq!(text("</p></div>a</li><li>b</ul>c<h1>d<p>e</h1>f"), "a\n- bc\n\n  # d\n\n  e\n\n  f\n");
    assert_eq!(text("<td>x</td><tr><th>y"), "x\n\ny\n");
    assert_eq!(text("<code>open <p>next"), "`open`\n\nnext\n");
    assert_eq!(text("<pre>never closed\n x"), "```\nnever closed\n x\n```\n");
}

#[test]
fn deep_and_wide_pages_are_linear() {
    let n = 100_000;
    for (open, close) in [
        ("<div>", "</div>"),
        ("<ul><li>", "</ul>"),
        ("<blockquote>", ""),
        ("<table><tr><td>", "</table>"),
        ("<b>", "</i>"),
        ("<div>", "</section>"),
        ("<svg>", ""),
    ] {
        let page = format!("{}x{}", open.repeat(n), close.repeat(n));
        assert!(convert(&page).text.len() < page.len() + 100, "{open}");
    }
    let page = "<blockquote>".repeat(1000) + &"<p>x".repeat(n);
    assert!(convert(&page).text.len() < 100 * n);
}

proptest::proptest! {
    #[test]
    fn anything_converts_the_same_twice(parts in proptest::collection::vec(proptest::sample::select(vec![
        "<p>", "</p>", "<ul>", "</ul>", "<ol>", "<li>", "</li>", "<table>", "<tr>", "<td>", "</td>", "</table>", "<pre>",
        "</pre>", "<code>", "</code>", "<svg>", "</svg>", "<main>", "</main>", "<article>", "<nav>", "</nav>", "<h1>",
        "</h1>", "<blockquote>", "</blockquote>", "<dl>", "<dt>", "<dd>", "<br>", "<hr>", "a", " ", "é&nbsp;", "&#x41;", "`",
        "<title>", "</title>", "<head>", "</head>", "<script>", "</script>", "<img alt=x>", "<math>", "<foreignobject>",
        "<div>", "</div>", "<caption>", "<!--", "-->", "<![CDATA[x]]>", "<textarea>", "</textarea>",
    ]), 0..80)) {
        let page = parts.concat();
        let once = convert(&page);
        proptest::prop_assert_eq!(&once, &convert(&page));
        proptest::prop_assert!(once.text.is_empty() || once.text.ends_with('\n'));
    }
}
