// The EICAR anti-malware test file, by its definition at eicar.org: 68 bytes at the start of the file, at most 128 bytes
// in all, and nothing after them but white space (space, tab, LF, CR) and Ctrl-Z.
// The text is written as two halves that never stand beside each other, so that this file is not taken for a sample.

rule eicar_test_file
{
    meta:
        id = "malware/eicar"
        title = "EICAR anti-malware test file"
        severity = "high"
        remedy = "Harmless by design: find out who put it there to test, then delete it."
    strings:
        $first = "X5O!P%@AP[4\\PZX54(P^)7CC)7}$EI"
        $second = "CAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
    condition:
        filesize >= 68 and filesize <= 128 and $first at 0 and $second at 30 and
        (
            filesize == 68 or
            for all i in (68 .. filesize - 1) : (
                uint8(i) == 0x20 or uint8(i) == 0x09 or uint8(i) == 0x0a or uint8(i) == 0x0d or uint8(i) == 0x1a
            )
        )
}
