// Cryptocurrency miners: configurations, start lines and programs that mine for a wallet in a pool.
// Written from the public command lines and configuration keys of XMRig and its relatives, not tuned on a collection.
// A miner is not malicious by itself; on a server nobody meant it to run on, it is nearly always the sign of a break-in.

rule miner_configuration
{
    meta:
        id = "malware/miner-configuration"
        title = "Configuration of a cryptocurrency miner"
        severity = "high"
        remedy = "If nobody put it there on purpose: stop the miner, find what starts it and how it came in, rebuild the host."
    strings:
        $donate = "\"donate-level\""
        $pools = "\"pools\""
        $randomx = "\"randomx\""
        $rig = "\"rig-id\""
        $coin = /"coin"[ \t]{0,4}:[ \t]{0,4}("monero"|"XMR"|null)/ nocase
        $algo = /"algo"[ \t]{0,4}:[ \t]{0,4}"(rx\/|cn|randomx|cryptonight|argon2)/
        $url = /"url"[ \t]{0,4}:[ \t]{0,4}"[^"\n]{4,120}:[0-9]{2,5}"/
        $wallet = /"user"[ \t]{0,4}:[ \t]{0,4}"[48][0-9A-Za-z]{94}/
    condition:
        filesize < 128KB and (($url and $donate and 2 of ($pools, $randomx, $rig, $coin, $algo)) or ($url and $wallet))
}

rule miner_start
{
    meta:
        id = "malware/miner-start"
        title = "Command that starts a cryptocurrency miner"
        severity = "high"
        remedy = "If nobody put it there on purpose: stop the miner, find what starts it and how it came in, rebuild the host."
    strings:
        $scheme = /stratum(\+(tcp|ssl|udp|tls))?:\/\/[a-z0-9][a-z0-9.-]{3,80}:[0-9]{2,5}/
        $pool = /(pool\.supportxmr\.com|pool\.minexmr\.com|pool\.hashvault\.pro|moneroocean\.stream|nanopool\.org|xmrpool\.eu|monerohash\.com|c3pool\.(com|org)|2miners\.com|minergate\.com|herominers\.com|unmineable\.com|nicehash\.com|f2pool\.com|crypto-pool\.fr|dwarfpool\.com|kryptex\.network):[0-9]{2,5}/
        $user = /[ \t](-u|--user|-O|--userpass)[ =\t][^ \t\r\n]{8,140}/
        $url = /[ \t](-o|--url)[ =\t]["']?[^ \t\r\n]{4,120}/
        $name = /(xmrig|minerd|cpuminer|xmr-stak|ccminer|kdevtmpfsi|cgminer|bfgminer|t-rex|phoenixminer|nbminer|lolminer|srbminer|ethminer)/ nocase
        $option = /--(donate-level|cpu-max-threads-hint|max-cpu-usage|randomx-[a-z0-9-]{2,20}|nicehash|coin[ =]monero|rig-id)/
    condition:
        filesize < 64KB and ($scheme or $pool) and $url and ($user or $option) and ($name or $option or $pool)
}

rule miner_program
{
    meta:
        id = "malware/miner-program"
        title = "Cryptocurrency miner program"
        severity = "high"
        remedy = "If nobody put it there on purpose: stop the miner, find what starts it and how it came in, rebuild the host."
    strings:
        $donate = "donate-level"
        $xmrig = "xmrig" nocase
        $randomx = "randomx"
        $cryptonight = "cryptonight"
        $scheme = "stratum+tcp://"
        $scheme_tls = "stratum+ssl://"
        $method = "mining.subscribe"
        $method_authorize = "mining.authorize"
        $keepalive = "keepalived"
        $threads = "cpu-max-threads-hint"
        $nicehash = "nicehash"
    condition:
        filesize > 32KB and
        (uint32(0) == 0x464c457f or uint16(0) == 0x5a4d or uint32(0) == 0xfeedfacf) and
        (
            ($donate and 3 of ($xmrig, $randomx, $cryptonight, $scheme, $scheme_tls, $threads, $nicehash, $keepalive)) or
            (any of ($scheme*) and all of ($method*))
        )
}
