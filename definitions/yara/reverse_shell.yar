// Reverse shells in scripts, cron tables, units and profiles: a shell whose input and output are a network connection.
// Written from how such commands work, not tuned on a collection; checked for silence on Debian 12's /usr and /etc.

rule reverse_shell_dev_tcp
{
    meta:
        id = "malware/reverse-shell-dev-tcp"
        title = "Reverse shell over bash's /dev/tcp"
        severity = "critical"
        remedy = "Cut the connection to the address it names, find what starts it, and treat the host as broken into."
    strings:
        $interactive = /sh[ \t]{1,4}-[a-z]{0,2}i[ \t]{0,4}[0-9]{0,3}(>&|&>|<>|>|<)[ \t]{0,4}\/dev\/(tcp|udp)\/[^ \t\r\n]{3,80}\/[^ \t\r\n]{1,20}/
        $descriptor = /exec[ \t]{1,4}[0-9]{1,3}(<>|>&|>|<)[ \t]{0,4}\/dev\/(tcp|udp)\/[^ \t\r\n;]{3,80}[;\r\n &|]{1,8}.{0,80}(\/bin\/|ba|z|k|da)?sh[ \t]{0,4}(-i[ \t]{0,4})?[<>]{1,2}&[0-9]/
        $loop = /exec[ \t]{1,4}[0-9]{1,3}(<>|>&|>|<)[ \t]{0,4}\/dev\/(tcp|udp)\/[^ \t\r\n;]{3,80}[;\r\n &|]{1,8}[^\n]{0,40}while[ \t]{1,4}read/
        $exec0 = /0<&[0-9]{2,3}[-; \t]{1,6}exec[ \t]{1,4}[0-9]{2,3}<>[ \t]{0,4}\/dev\/tcp\//
    condition:
        filesize < 1MB and any of them
}

rule reverse_shell_netcat
{
    meta:
        id = "malware/reverse-shell-netcat"
        title = "Reverse or bound shell over netcat, socat or telnet"
        severity = "high"
        remedy = "Cut the connection to the address it names, find what starts it, and treat the host as broken into."
    strings:
        $fifo = /mkfifo[ \t][^\n]{1,120}sh[ \t]{1,4}-i?[^\n]{0,40}\|[ \t]{0,4}[a-z\/]{0,20}(nc|ncat|netcat|telnet|openssl)[ \t]/
        $nc = /\b(nc|ncat|netcat|nc\.traditional)[ \t]{1,4}(-[a-z0-9]{1,8}[ \t]{1,4}){0,4}[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[ \t]{1,4}[0-9]{1,5}[ \t]{1,4}(-[a-z]{0,4}[ec]|--exec|--sh-exec)[ \t"']{1,4}(\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh/
        $nc_first = /\b(nc|ncat|netcat|nc\.traditional)[ \t]{1,4}(-[a-z0-9]{1,8}[ \t]{1,4}){0,4}(-[a-z]{0,4}[ec]|--exec|--sh-exec)[ \t"']{1,4}(\/bin\/|\/usr\/bin\/)(ba|da|z|k)?sh[ \t"']{1,4}[^ \t\r\n]{4,60}[ \t]{1,4}[0-9]{1,5}/
        $socat = /socat[ \t][^\n]{0,120}exec:["']{0,2}(\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh[^\n]{0,40},pty[^\n]{0,60}/ nocase
        $telnet = /telnet[ \t]{1,4}[0-9.]{7,15}[ \t]{1,4}[0-9]{1,5}[ \t]{0,4}\|[ \t]{0,4}(\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh[ \t]{0,4}\|[ \t]{0,4}telnet/
    condition:
        filesize < 1MB and any of them
}

rule reverse_shell_script
{
    meta:
        id = "malware/reverse-shell-script"
        title = "Reverse shell in a script language"
        severity = "high"
        remedy = "Cut the connection to the address it names, find what starts it, and treat the host as broken into."
    strings:
        $python_connect = /\.connect\(\([ \t]{0,2}[^)\n]{3,80}\)\)/
        $python_dup = /dup2\([ \t]{0,2}[a-zA-Z_]{1,20}\.fileno\(\)[ \t]{0,2},[ \t]{0,2}[0-2]/
        $python_dup_for = /dup2\([ \t]{0,2}[a-zA-Z_]{1,20}\.fileno\(\)[ \t]{0,2},[ \t]{0,2}[a-z]{1,4}\)[ \t]{1,2}for/
        $python_dup_loop = /\[?os\.dup2\([a-z]{1,10}\.fileno\(\),[ \t]?fd\)/
        $python_run = /(subprocess\.(call|run|Popen)|os\.(system|execl|execv|execve)|pty\.spawn)[ \t]?\([ \t]?\[?[ \t]?["'](\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh["']/
        $perl = /use[ \t]{1,4}Socket[^\n]{0,400}connect\([^\n]{0,120}open\([ \t]?STDIN,[ \t]?["']>&[^\n]{0,160}exec[ \t({]{0,4}["'](\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh/
        $perl_file_connect = /connect[ \t]?\([ \t]?[A-Z_]{2,12}[ \t]?,/
        $perl_file_stdin = /open[ \t]?\([ \t]?STDIN,[ \t]?["']>&[A-Z_]{1,12}["']/
        $perl_file_exec = /(exec|system)[ \t]?[({]?[ \t]?["'](\/bin\/|\/usr\/bin\/)(ba|da|z|k)?sh/
        $perl_io = /IO::Socket::INET[^\n]{0,120}->fdopen\([ \t]?\$[a-z]{1,8}[ \t]?,[ \t]?["']?[rw]["']?\)[^\n]{0,80}system/
        $php = /fsockopen[ \t]?\([^;\n]{4,100};[^\n]{0,160}(proc_open|exec|shell_exec|system|passthru|popen)[ \t]?\([ \t]?["'](\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh[ \t"']/
        $php_backtick = /fsockopen[ \t]?\([^;\n]{4,100};[ \t]{0,2}`(\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh[ \t]/
        $php_file_open = /fsockopen[ \t]?\([ \t]?\$/
        $php_file_shell = /\$[a-z]{1,12}[ \t]?=[ \t]?["'][^"'\n]{0,60}\/bin\/(ba|da|z|k)?sh -i["']/
        $php_file_run = /proc_open[ \t]?\([ \t]?\$/
        $ruby = /TCPSocket\.(open|new)\([^\n]{3,80}(exec|spawn)[ \t(]{0,4}(sprintf\()?["'](\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh/
        $ruby_loop = /TCPSocket\.(open|new)\([^\n]{3,80}while[^\n]{1,60}IO\.popen\(/
        $lua = /socket\.tcp\(\)[^\n]{0,120}(os\.execute|io\.popen)\(/
        $lua_shell = /require\([ \t]?["']socket["'][^\n]{0,160}os\.execute\(["'](\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh -i/
        $node = /net\.(connect|createConnection|Socket)[^;]{0,400}\.pipe\([ \t]?sh\.stdin/
        $node_spawn = /spawn\([ \t]?["'](\/bin\/|\/usr\/bin\/)?(ba|da|z|k)?sh["'][^;]{0,40}\)[^\n]{0,300}\.pipe\([a-z]{1,12}\.stdin\)/
        // commands are read from the connection, run, and their output is sent back; a plain client does not do the second
        $awk_net = /\/inet\/(tcp|udp)\/0\//
        $awk_run = /while[ (]{1,4}[a-z]{1,8}[ \t]?\|&[ \t]?getline[ \t]?\)?[ \t]?>[ \t]?0[ \t]?\)?[^\n]{0,40}print[ \t]{1,2}\$0[ \t]?\|&/
        $powershell = /Net\.Sockets\.TCPClient\([^\n]{4,160}GetStream\(\)[^\n]{0,600}(iex|Invoke-Expression)[ \t(]/ nocase
    condition:
        filesize < 1MB and
        (
            ($python_connect and $python_run and any of ($python_dup*)) or
            all of ($perl_file*) or all of ($php_file*) or all of ($awk*) or
            any of ($perl, $perl_io, $php, $php_backtick, $ruby*, $lua*, $node*, $powershell)
        )
}

rule reverse_shell_download
{
    meta:
        id = "malware/download-to-shell"
        title = "Scheduled or boot-time command that pipes a download from a bare address into a shell"
        severity = "high"
        remedy = "Remove the line, block the address, and look for what it has installed."
    strings:
        // cron: five fields or @reboot, then curl or wget of an IPv4 address into a shell
        $cron = /(\*|[0-9,\/-]{1,12}|@reboot)[ \t]{1,4}[^\n#]{0,60}(curl|wget)[ \t][^\n|]{0,80}https?:\/\/[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[^\n|]{0,100}\|[ \t]{0,4}(\/bin\/)?(ba|da|z)?sh/
    condition:
        filesize < 64KB and $cron
}
