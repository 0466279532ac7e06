// JSP web shells: what a request carries reaches a process or the class loader.
// Written from how such shells work, not tuned on a collection; checked for silence on Tomcat's own pages and examples.

private rule jsp_source
{
    strings:
        $tag = "<%"
        $element = "<jsp:"
    condition:
        filesize < 512KB and any of them
}

rule webshell_jsp_exec
{
    meta:
        id = "malware/webshell-jsp-exec"
        title = "JSP web shell: runs commands from the request"
        severity = "critical"
        remedy = "Take the host off the network, keep the disk as evidence, find how the file was deployed, redeploy from a clean source."
    strings:
        $run1 = /getRuntime[ \t]{0,4}\([ \t]{0,4}\)[ \t\r\n]{0,8}\.[ \t\r\n]{0,8}exec[ \t]{0,4}\(/
        $run2 = "ProcessBuilder("
        $run3 = "java.lang.ProcessImpl"
        $run4 = /getMethod[ \t]{0,4}\([ \t]{0,4}"(exec|getRuntime)"/
        $input1 = /request[ \t]{0,4}\.[ \t]{0,4}get(Parameter|Header|Cookies|InputStream|Reader|QueryString)/
        $input2 = /\$\{?param\./
    condition:
        jsp_source and any of ($run*) and any of ($input*)
}

rule webshell_jsp_class_loader
{
    meta:
        id = "malware/webshell-jsp-class-loader"
        title = "JSP web shell: loads classes sent with the request"
        severity = "critical"
        remedy = "Take the host off the network, keep the disk as evidence, find how the file was deployed, redeploy from a clean source."
    strings:
        $define = "defineClass"
        $loader = /extends[ \t]{1,4}(java\.lang\.)?ClassLoader/
        $input = /request[ \t]{0,4}\.[ \t]{0,4}get(Parameter|Header|Cookies|InputStream|Reader)/
        $decode1 = /Base64/ nocase
        $decode2 = "javax.crypto"
        $decode3 = "Cipher.getInstance"
    condition:
        jsp_source and ($define or $loader) and $input and any of ($decode*)
}

rule webshell_jsp_script_engine
{
    meta:
        id = "malware/webshell-jsp-script-engine"
        title = "JSP web shell: evaluates script text from the request"
        severity = "high"
        remedy = "Take the host off the network, keep the disk as evidence, find how the file was deployed, redeploy from a clean source."
    strings:
        $engine = "ScriptEngineManager"
        $eval = /\.eval[ \t]{0,4}\([^;]{0,40}request[ \t]{0,4}\.[ \t]{0,4}getParameter/
    condition:
        jsp_source and all of them
}

rule webshell_jsp_writer
{
    meta:
        id = "malware/webshell-jsp-writer"
        title = "JSP web shell: writes what the request carries into a file it names"
        severity = "high"
        remedy = "Delete the page; look for files it has written beside it and in the server's log for who used it."
    strings:
        $write = /FileOutputStream[ \t]{0,4}\([^;]{0,80}request[ \t]{0,4}\.[ \t]{0,4}getParameter/
        $bytes = /\.write[ \t]{0,4}\([^;]{0,60}request[ \t]{0,4}\.[ \t]{0,4}getParameter/
    condition:
        jsp_source and all of them
}
