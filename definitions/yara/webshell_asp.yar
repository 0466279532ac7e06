// ASP and ASP.NET web shells: what a request carries reaches eval, a process or an assembly.
// Written from how such shells work, not tuned on a collection.

rule webshell_asp_eval_request
{
    meta:
        id = "malware/webshell-asp-eval-request"
        title = "ASP web shell: evaluates code from the request"
        severity = "critical"
        remedy = "Take the host off the network, keep the disk as evidence, find how the file was written, rebuild the site from a clean source."
    strings:
        $tag = "<%"
        $script = /<script[^>]{1,60}runat/ nocase
        $eval = /[^a-z_.](eval|execute|executeglobal)[ \t(]{1,6}request[ \t]{0,4}((\.[ \t]{0,2}(form|item|querystring|cookies)[ \t]{0,4})?[(\[])/ nocase
        $net = /[^a-z_.]eval[ \t]{0,4}\([ \t]{0,4}(system\.text\.[^;]{0,80})?request[ \t]{0,4}(\.(item|form|querystring|headers)[ \t]{0,4})?\[[^;]{1,80},[ \t]{0,4}["']unsafe["']/ nocase
    condition:
        filesize < 1MB and ($tag or $script) and ($eval or $net)
}

rule webshell_asp_exec
{
    meta:
        id = "malware/webshell-asp-exec"
        title = "ASP web shell: runs commands or manages files for the visitor"
        severity = "high"
        remedy = "Take the host off the network, keep the disk as evidence, find how the file was written, rebuild the site from a clean source."
    strings:
        $tag = /<%[ \t\r\n@=]/
        $input = /request[ \t]{0,4}(\.(form|querystring|params|item|headers))?[ \t]{0,4}[(\[][ \t]{0,4}"/ nocase
        $shell = "WScript.Shell" nocase
        $run = /\.(exec|run)[ \t(]{1,6}/ nocase
        $cmd = /cmd(\.exe)?[ "]{1,4}(&[ "]{1,4})?\/c/ nocase
        $start1 = "ProcessStartInfo" nocase
        $start2 = "Process.Start" nocase
        $load = "Assembly.Load" nocase
        $decode = "FromBase64String" nocase
        $fso1 = "Scripting.FileSystemObject" nocase
        $fso2 = /\.(DeleteFile|DeleteFolder|MoveFile|CopyFile)[ \t(]/ nocase
        $fso3 = /\.(CreateTextFile|OpenTextFile)[ \t(]/ nocase
        $fso4 = ".Drives" nocase
        $fso5 = ".SubFolders" nocase
    condition:
        filesize < 1MB and $tag and $input and
        (($shell and $run) or ($cmd and any of ($start*)) or ($load and $decode) or all of ($fso*))
}
