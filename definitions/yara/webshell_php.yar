// PHP web shells: what a request carries reaches code execution, or the code hides that it does.
//
// Tuned on: the 85 scripts (even half) of bartblaze/PHP-backdoors, and for silence on Debian 12's /usr and PHP packages.
// The rate on that half says how well these rules describe what they were written from; shells made elsewhere are
// detected less often. No rule is for one sample; names of widespread panels are among the words of the interface rule.
//
// Cost: every string has a rare first part (an atom of at least three fixed bytes), no regular expression is unbounded.

private rule php_source
{
    strings:
        // as regular expressions, so that this file is not taken for PHP
        $long = /<\?php/ nocase
        $echo = /<\?=/
        $short = /<\?[ \t\r\n@$]/
        $glued = /<\?eval/ nocase
    condition:
        filesize < 2MB and any of them
}

rule webshell_php_eval_request
{
    meta:
        id = "malware/webshell-php-eval-request"
        title = "PHP web shell: runs code or commands taken from the request"
        severity = "critical"
        remedy = "Take the host off the network, keep the disk as evidence, find how the file was written, rebuild the site from a clean source."
    strings:
        $get = /([^a-zA-Z0-9_>:$]|[^-]>|[^:]:)(eval|assert|system|passthru|shell_exec|exec|popen|proc_open|pcntl_exec|create_function)[ \t\r\n]{0,8}\([ \t\r\n"'.]{0,8}((@|stripslashes|base64_decode|urldecode|rawurldecode|gzinflate|gzuncompress|hex2bin|trim|strrev|str_rot13)[ \t]{0,4}\(?){0,4}[ \t]{0,4}[{]?\$_GET[ \t]{0,4}[\[{]/ nocase
        $post = /([^a-zA-Z0-9_>:$]|[^-]>|[^:]:)(eval|assert|system|passthru|shell_exec|exec|popen|proc_open|pcntl_exec|create_function)[ \t\r\n]{0,8}\([ \t\r\n"'.]{0,8}((@|stripslashes|base64_decode|urldecode|rawurldecode|gzinflate|gzuncompress|hex2bin|trim|strrev|str_rot13)[ \t]{0,4}\(?){0,4}[ \t]{0,4}[{]?\$_POST[ \t]{0,4}[\[{]/ nocase
        $request = /([^a-zA-Z0-9_>:$]|[^-]>|[^:]:)(eval|assert|system|passthru|shell_exec|exec|popen|proc_open|pcntl_exec|create_function)[ \t\r\n]{0,8}\([ \t\r\n"'.]{0,8}((@|stripslashes|base64_decode|urldecode|rawurldecode|gzinflate|gzuncompress|hex2bin|trim|strrev|str_rot13)[ \t]{0,4}\(?){0,4}[ \t]{0,4}[{]?\$_REQUEST[ \t]{0,4}[\[{]/ nocase
        $cookie = /([^a-zA-Z0-9_>:$]|[^-]>|[^:]:)(eval|assert|system|passthru|shell_exec|exec|popen|proc_open|pcntl_exec|create_function)[ \t\r\n]{0,8}\([ \t\r\n"'.]{0,8}((@|stripslashes|base64_decode|urldecode|rawurldecode|gzinflate|gzuncompress|hex2bin|trim|strrev|str_rot13)[ \t]{0,4}\(?){0,4}[ \t]{0,4}[{]?\$_COOKIE[ \t]{0,4}[\[{]/ nocase
        $header = /([^a-zA-Z0-9_>:$]|[^-]>|[^:]:)(eval|assert|system|passthru|shell_exec|exec|popen|proc_open)[ \t\r\n]{0,8}\([ \t]{0,4}((base64_decode|urldecode|gzinflate|hex2bin|strrev|str_rot13)[ \t]{0,4}\(?){0,3}@?\$_SERVER[ \t]{0,4}\[[ \t]{0,4}['"]HTTP_/ nocase
        $body = /([^a-zA-Z0-9_>:$]|[^-]>|[^:]:)(eval|assert|system|passthru|shell_exec)[ \t]{0,4}\(.{0,60}file_get_contents[ \t]{0,4}\([ \t]{0,4}['"]php:\/\/input/ nocase
    condition:
        php_source and (any of ($get, $post, $request, $cookie, $header) or ($body and filesize < 3KB))
}

rule webshell_php_eval_body
{
    meta:
        id = "malware/webshell-php-eval-body"
        title = "PHP script that runs the body of a request as code"
        // development servers and test tools do this, too; a short file that does it is reported as a web shell instead
        severity = "medium"
        remedy = "Make sure that no one outside can reach the script; if it is not part of software you installed, treat the host as broken into."
    strings:
        $body = /([^a-zA-Z0-9_>:$]|[^-]>|[^:]:)(eval|assert|system|passthru|shell_exec)[ \t]{0,4}\(.{0,60}file_get_contents[ \t]{0,4}\([ \t]{0,4}['"]php:\/\/input/ nocase
    condition:
        php_source and filesize >= 3KB and $body
}

rule webshell_php_callback_request
{
    meta:
        id = "malware/webshell-php-callback-request"
        title = "PHP web shell: the request chooses which function runs"
        severity = "critical"
        remedy = "Take the host off the network, keep the disk as evidence, find how the file was written, rebuild the site from a clean source."
    strings:
        // $_POST['f']($_POST['x']) and ($_=@$_GET[2]).@$_($_POST[1])
        $called = /\$_(GET|POST|REQUEST|COOKIE)[ \t]{0,4}\[[^\]]{0,40}\][ \t]{0,4}\([ \t]{0,4}@?\$_(GET|POST|REQUEST|COOKIE|SERVER)/
        $assigned = /\$_{1,4}[ \t]?=[ \t]?@?\$_(GET|POST|REQUEST|COOKIE)\[[^\]]{0,40}\][); .]{1,6}@?\$_{1,4}\([ \t]{0,4}@?\$_(GET|POST|REQUEST)/
        $map = /\b(array_map|call_user_func|call_user_func_array|register_shutdown_function|ob_start)[ \t]{0,4}\([ \t]{0,4}@?\$_(GET|POST|REQUEST|COOKIE)[ \t]{0,4}\[/ nocase
        $named = /\b(array_map|array_filter|array_walk|call_user_func|call_user_func_array|register_shutdown_function)[ \t]{0,4}\([ \t]{0,4}["'](assert|eval|system|passthru|shell_exec|exec)["'][ \t]{0,4},[^;]{0,60}\$_(GET|POST|REQUEST|COOKIE)/ nocase
        $create = /\bcreate_function[ \t]{0,4}\([^;]{0,60}\$_(GET|POST|REQUEST|COOKIE)[ \t]{0,4}\[/ nocase
        $replace = /\bpreg_replace[ \t]{0,4}\([ \t]{0,4}["'].{0,20}[\/#~|@][imsxuADSUXJ]{0,6}e[imsxuADSUXJ]{0,6}["'][ \t]{0,4},[^;]{0,60}\$_(GET|POST|REQUEST|COOKIE)/ nocase
    condition:
        php_source and any of them
}

rule webshell_php_include_request
{
    meta:
        id = "malware/webshell-php-include-request"
        title = "PHP file that includes whatever the request names"
        severity = "high"
        remedy = "Delete the file if the site does not need it; otherwise check the name against a fixed list before it is included."
    strings:
        $include = /\b(include|require)(_once)?[ \t]{0,4}\(?[ \t]{0,4}@?\$_(GET|POST|REQUEST|COOKIE)[ \t]{0,4}\[/ nocase
    condition:
        php_source and $include
}

rule webshell_php_command_variable
{
    meta:
        id = "malware/webshell-php-command-variable"
        title = "PHP web shell: a command from the request is put in a variable and run"
        severity = "high"
        remedy = "Take the host off the network, keep the disk as evidence, find how the file was written, rebuild the site from a clean source."
    strings:
        $input = /\$(_(GET|POST|REQUEST|COOKIE)|HTTP_(GET|POST)_VARS)[ \t]{0,4}\[[ \t]{0,4}['"]?(cmd|command|comand|komut|exec|execute|shell|sh3ll|execmd|execcmd|phpcode|phpeval|evalcode|ev|eval|ekse|run|perintah|cmdir|kcmd|_cmd|c0de|cmdtxt|ecmd|shcmd|docmd)['"]?[ \t]{0,4}\]/ nocase
        $run = /[^a-zA-Z0-9_>:\\$](system|passthru|shell_exec|popen|proc_open|exec|eval)[ \t]{0,4}\([ \t"']{0,4}\$[a-zA-Z_]{1,20}[ \t"'.)\[,]/ nocase
        $redirect = /[^a-zA-Z0-9_>:\\$](system|passthru|shell_exec|popen|exec)[ \t]{0,4}\([ \t"']{0,4}\$[a-zA-Z_]{1,20}[ \t"'.]{1,6}[^;)]{0,10}2>/ nocase
    condition:
        php_source and filesize < 600KB and $input and ($run or $redirect)
}

rule webshell_php_interface
{
    meta:
        id = "malware/webshell-php-interface"
        title = "PHP web shell: an attacker's control panel"
        severity = "high"
        remedy = "Take the host off the network, keep the disk as evidence, find how the file was written, rebuild the site from a clean source."
    strings:
        // what a panel can do
        $do_passthru = /[^a-z_>:\\'"]passthru[ \t]{0,4}\(/ nocase
        $do_shell = /[^a-z_>:\\'"]shell_exec[ \t]{0,4}\(/ nocase
        $do_popen = /[^a-z_>:\\'"]popen[ \t]{0,4}\(/ nocase
        $do_system = /[^a-z_>:\\'"]system[ \t]{0,4}\([ \t]{0,4}[$"']/ nocase
        $do_uname = "php_uname" nocase
        $do_safe = "safe_mode" nocase
        $do_disabled = "disable_functions" nocase
        $do_pwuid = "posix_getpwuid" nocase
        $do_gid = "posix_getgrgid" nocase
        $do_basedir = "open_basedir" nocase
        $do_chmod = /[^a-z_>:\\]chmod[ \t]{0,4}\([ \t]{0,4}\$/ nocase
        $do_upload = "move_uploaded_file" nocase
        $do_copy = /[^a-z_>:\\]copy[ \t]{0,4}\([ \t]{0,4}\$_?(HTTP_POST_)?FILES/ nocase
        $do_phpinfo = /[^a-z_>:\\]phpinfo[ \t]{0,4}\(/ nocase
        $do_space = "disk_free_space" nocase
        $do_symlink = /[^a-z_>:\\]symlink[ \t]{0,4}\(/ nocase
        $do_quotes = "magic_quotes" nocase
        $do_magic_eval = /[^a-z_>:\\]eval[ \t]{0,4}\([ \t]{0,4}\$/ nocase
        // what its author writes on it
        $say_passwd = "/etc/passwd" nocase
        $say_shadow = "/etc/shadow"
        $say_named = "/etc/named.conf"
        $say_perms = "drwxrwxrwx"
        $say_back = /back[ _-]?connect/ nocase
        $say_bind = /bind[ _-]?(port|shell)/ nocase
        $say_suicide = /(self[ _-]?remove|selfremove|kill[ _-]?self|remove[ _-]?shell)/ nocase
        $say_deface = /(mass[ _-]?defac|defacer|defacement)/ nocase
        $say_hacked = /(h[a4]cked by|0wned by|coded by .{0,20}(team|hack|sh[e3]ll)|greetz|gr33tz)/ nocase
        $say_sh3ll = /[^a-z](sh3ll|w3bshell|web ?shell|php ?shell|c99|c99shell|r57|r57shell|b374k|wso [0-9]|filesman|mini ?shell|backdoor)[^a-z]/ nocase
        $say_bypass = /(bypass[ _-]?(safe|root|disable|function|shell|forbidden|symlink|open)|safe[ _-]?mode[ _-]?bypass|by ?pass)/ nocase
        $say_brute = /brute[ _-]?force/ nocase
        $say_suid = /find \/ .{0,20}-perm -[0-9]{4,5}/
        $say_uname = "uname -a"
        $say_exploit = /(milw0rm|exploit-db|packetstorm|local root|zone-h\.org|1337day|inj3ct0r)/ nocase
        $say_uid = /uid=.{0,6}(getmyuid|posix_getuid|\$)/
        $say_config = /(config (grabber|finder)|symlink (server|users|sites)|cpanel (crack|brute)|mailer|zone-?h)/ nocase
        $say_cmdexe = "cmd.exe" nocase
        $say_mssql = "xp_cmdshell" nocase
        $say_spool = "/var/cpanel"
        $say_irc = /(udp ?flood|ddos|perlbot|eggdrop)/ nocase
    condition:
        php_source and filesize < 1MB and
        (
            (5 of ($do_*) and 4 of ($say_*)) or
            (8 of ($do_*) and 2 of ($say_*) and any of ($do_passthru, $do_shell, $do_popen, $do_system)) or
            (7 of ($do_*) and any of ($say_*) and 2 of ($do_passthru, $do_shell, $do_popen, $do_system)) or
            (3 of ($do_*) and 6 of ($say_*))
        )
}

rule webshell_php_uploader
{
    meta:
        id = "malware/webshell-php-uploader"
        title = "PHP page that stores uploads under the name the visitor chose"
        severity = "high"
        remedy = "Delete the page; look for files it has stored beside it and in the server's log for who used it."
    strings:
        $copy = /(copy|move_uploaded_file)[ \t]{0,4}\([ \t]{0,4}\$_FILES[ \t]{0,4}\[[^\]]{1,40}\][ \t]{0,4}\[[ \t]{0,4}['"]?tmp_name['"]?[ \t]{0,4}\][ \t]{0,4},[ \t]{0,4}(\$[a-zA-Z_]{1,20}[ \t]{0,4}\.[ \t]{0,4}|["'][^"']{0,20}["'][ \t]{0,4}\.[ \t]{0,4}){0,3}@?\$_FILES[ \t]{0,4}\[[^\]]{1,40}\][ \t]{0,4}\[[ \t]{0,4}['"]?name/
        $move = "move_uploaded_file" nocase
        $copy_any = /[^a-z_>:\\]copy[ \t]{0,4}\([ \t]{0,4}\$/ nocase
        $files = "$_FILES"
        $name = /\$_FILES[ \t]{0,4}\[[^\]]{1,40}\][ \t]{0,4}\[[ \t]{0,4}['"]name['"]/
        $form = /type[ \t]{0,2}=[ \t]{0,2}\\?['"]?file/ nocase
        $cwd = "getcwd" nocase
        $uname = "php_uname" nocase
        $self = "PHP_SELF"
        $check1 = "pathinfo"
        $check2 = "session_start"
        $check3 = "require"
        $check4 = "include"
        $check5 = "namespace "
        $check6 = "class "
    condition:
        php_source and filesize < 64KB and
        (
            ($copy and $form) or
            (filesize < 4KB and ($move or $copy_any) and $files and $name and $form and
                none of ($check*)) or
            (filesize < 16KB and ($move or $copy_any) and $form and $uname and ($cwd or $self) and $files)
        )
}

rule webshell_php_eval_decoded
{
    meta:
        id = "malware/webshell-php-eval-decoded"
        title = "PHP code that unpacks and runs hidden code"
        severity = "high"
        remedy = "Compare with the software's own release; if it is not part of it, treat the host as broken into and rebuild the site from a clean source."
    strings:
        $eval = /\b(eval|assert)[ \t\r\n]{0,8}\([ \t\r\n]{0,4}(["']\?>["'][ \t]{0,4}\.[ \t]{0,4})?@?(gzinflate|gzuncompress|gzdecode|base64_decode|str_rot13|strrev|convert_uudecode|rawurldecode|urldecode|hex2bin)[ \t]{0,4}\([ \t]{0,4}["'$a-z]/ nocase
        $eval_variable = /\beval[ \t]{0,8}\([ \t]{0,4}(["']\?>["'][ \t]{0,4}\.[ \t]{0,4})?@?\$\{?["']?[a-zA-Z0-9_\\]{1,60}["']?\}?[ \t]{0,4}\([ \t\r\n]{0,4}["'][^"'$]/ nocase
        $eval_nested = /\beval[ \t]{0,8}\([ \t]{0,4}(["']\?>["'][ \t]{0,4}\.[ \t]{0,4})?@?\$[a-zA-Z0-9_]{1,40}[ \t]{0,4}\([ \t]{0,4}\$[a-zA-Z0-9_]{1,40}[ \t]{0,4}\(/ nocase
        $preg_hex = /\bpreg_replace[ \t]{0,4}\([ \t]{0,4}["'].{0,20}\/[imsxu]{0,4}e[imsxu]{0,4}["'][ \t]{0,4},[ \t]{0,4}["'](\\x65|e)(\\x76|v)(\\x61|a)(\\x6c|l)/ nocase
        $create = /\bcreate_function[ \t]{0,4}\([ \t]{0,4}["']{2}[ \t]{0,4},[ \t]{0,4}(gzinflate|gzuncompress|base64_decode|str_rot13|strrev)/ nocase
        $chain = /(gzinflate|gzuncompress|str_rot13|strrev)[ \t]{0,4}\([ \t]{0,4}((gzinflate|gzuncompress|str_rot13|strrev)[ \t]{0,4}\([ \t]{0,4}){0,4}base64_decode[ \t]{0,4}\([ \t]{0,4}["'][A-Za-z0-9+\/=]{20}/ nocase
        // base64 of a PHP tag, "eval(" and "error_reporting(" as the start of a literal that is decoded
        $literal = /base64_decode[ \t]{0,4}\([ \t]{0,4}["'](PD9waHA|ZXZhbC|ZXJyb3JfcmVwb3J0aW5n|aWYoaXNzZXQoJF|JGF1dGhfcGFzcy|QGVycm9yX3JlcG9ydGluZ|QGV2YWwo)/
        $chr_loop = /\.=[ \t]?@?chr[ \t]?\(.{1,80}[;}][ \t]?eval[ \t]?\(\$/
        $request = "$_SERVER"
    condition:
        filesize < 2MB and
        (
            (php_source and any of ($eval*, $preg_hex, $create, $chain, $literal, $chr_loop)) or
            ($literal and $request)
        )
}

rule webshell_php_dropper
{
    meta:
        id = "malware/webshell-php-dropper"
        title = "PHP page that fetches a text from the web and stores it in the web root"
        severity = "high"
        remedy = "Delete the page, and look in the web root for the files it has stored."
    strings:
        $fetch = /(curl_init|file_get_contents|http_get|fopen)[ \t]?\([ \t]?["'$]/ nocase
        $text = /https?:\/\/[a-z0-9.\/_-]{4,120}\.txt['"]/ nocase
        $root = "DOCUMENT_ROOT"
        $php = /\.php['"]/ nocase
        $write = /(fwrite|fputs|file_put_contents)[ \t]?\(/ nocase
    condition:
        php_source and filesize < 8KB and all of them
}

rule webshell_php_hidden_names
{
    meta:
        id = "malware/webshell-php-hidden-names"
        title = "PHP code that hides the names of the functions it calls"
        severity = "high"
        remedy = "Compare with the software's own release; if it is not part of it, treat the host as broken into and rebuild the site from a clean source."
    strings:
        // "base64_", "eval(", "assert", "gzinfl", "GLOBALS", "create" as \x.. or octal escapes
        $base64 = /(\\x62|\\142)(\\x61|\\141)(\\x73|\\163)(\\x65|\\145)(\\x36|\\66|6)(\\x34|\\64|4)/ nocase
        $eval = /(\\x65|\\145)(\\x76|\\166)(\\x61|\\141)(\\x6c|\\154)(\\x28|\\50|\()/ nocase
        $assert = /(\\x61|\\141)(\\x73|\\163)(\\x73|\\163)(\\x65|\\145)(\\x72|\\162)(\\x74|\\164)/ nocase
        $gzinflate = /(\\x67|\\147)(\\x7a|\\172)(\\x69|\\151)(\\x6e|\\156)(\\x66|\\146)/ nocase
        $globals = /\$\{[ \t]?["'](\\x47|\\107|G)(\\x4c|\\114)(\\x4f|\\117|O)(\\x42|\\102|B)/
        $split = /["']b["']?[ \t]?\.[ \t]?["']?as["']?[ \t]?\.[ \t]?["']?e["']?[ \t]?\.?[ \t]?["']?6["']?[ \t]?\.[ \t]?["']?4_["']?/ nocase
        $url_alphabet = "%6E1%7A%62%2F%6D%615%5C%76%740%6928"
        // "base64_decode" and "gzinflate" by str_rot13 and strrev
        $rot13 = /["'](onfr64_qrpbqr|tmvasyngr|riny|nffreg)["']/
        $reversed = /["'](edoced_46esab|etalfnizg|tressa)["']/
    condition:
        php_source and any of them
}

rule webshell_php_string_arithmetic
{
    meta:
        id = "malware/webshell-php-string-arithmetic"
        title = "PHP code built from bit operations on strings or from single characters"
        severity = "high"
        remedy = "Compare with the software's own release; if it is not part of it, treat the host as broken into and rebuild the site from a clean source."
    strings:
        $xor1 = "'^'"
        $xor2 = "\"^\""
        $xor3 = ")^$"
        $or1 = /[a-zA-Z0-9@`]'\|'[^'")]/
        $or2 = "'|\""
        $or3 = ")|("
        $and1 = /[a-zA-Z0-9@`~]'&'[^'")]/
        $and2 = ")&$"
        $join = /;\$[a-zA-Z0-9_]{3,16}=('[^'\n]{1,20}'|[a-zA-Z0-9_]{2,12})[\^|&]('|"|[a-zA-Z])/
        $call = /\$[a-zA-Z0-9_]{2,20}\((\/\*[^*]{0,60}\*\/)?\$[a-zA-Z0-9_]{2,20}[.(]/
        $chr = /chr\([0-9 ^+*\/-]{1,12}\)[ \t]?\.[ \t]?chr\([0-9 ^+*\/-]{1,12}\)[ \t]?\.[ \t]?chr\([0-9 ^+*\/-]{1,12}\)[ \t]?\.[ \t]?chr\([0-9 ^+*\/-]{1,12}\)[ \t]?\.[ \t]?chr\([0-9 ^+*\/-]{1,12}\)[ \t]?\.[ \t]?chr\(/ nocase
        $index = /\$[a-zA-Z0-9_]{1,30}[\[{][0-9]{2,3}[\]}][ \t]{0,2}\.[ \t]{0,2}\$[a-zA-Z0-9_]{1,30}[\[{][0-9]{2,3}[\]}][ \t]{0,2}\.[ \t]{0,2}\$[a-zA-Z0-9_]{1,30}[\[{][0-9]{2,3}[\]}][ \t]{0,2}\.[ \t]{0,2}\$[a-zA-Z0-9_]{1,30}[\[{][0-9]{2,3}[\]}][ \t]{0,2}\./
        $goto = /goto [A-Za-z0-9_]{4,8};/
        $escape = /\\(x[0-9a-f]{2}|[0-7]{2,3})\\(x[0-9a-f]{2}|[0-7]{2,3})\\(x[0-9a-f]{2}|[0-7]{2,3})/
        $o0 = /\$(O0|OO|O_|_O|l1|Il)[O0_Il1]{3,12}[ \t]?[=(\[{]/
        $globals = /\$GLOBALS\[['"][O0_Il1]{4,16}['"]\]/
    condition:
        php_source and
        (
            (filesize < 32KB and #xor1 + #xor2 + #xor3 + #or1 + #and1 + #and2 + #or2 + #or3 > 5 and ($join or $call)) or
            (filesize < 4KB and #xor1 + #xor2 + #xor3 + #or1 + #and1 + #and2 + #or2 + #or3 > 3 and $join and $call) or
            (filesize < 512KB and $chr and #chr > 3) or
            (filesize < 512KB and #index > 3) or
            (#goto > 20 and #escape > 20) or
            (#o0 > 8) or (#globals > 8)
        )
}
