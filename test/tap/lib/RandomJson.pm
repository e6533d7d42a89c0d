# RandomJson.pm: JSON texts by random numbers, of all that jsonb can hold and with everything that is easily got wrong on the way.
#
# Made by rand alone, so that srand repeats them. The texts are UTF-8 bytes.
package RandomJson;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(random_json random_nested random_text);

my @escapes = ('\\"', '\\\\', '\\/', '\\b', '\\f', '\\n', '\\r', '\\t');
my @awkward = map { chr } 0x7f, 0x80, 0x85, 0xa0, 0xad, 0x300, 0x200b, 0x200d, 0x2028, 0x2029, 0x202e, 0xfeff, 0xfffd, 0xffff, 0x1f600,
    0x10ffff;
my @keys = ('', '__proto__', 'constructor', 'payload', 'occurredAt', '\\",\\"occurredAt\\":\\"', '\\"quoted\\"',
    ' a , b : c ', "'", '\\u0022', '\\\\');

sub pick { return $_[rand @_] }

# A character that is no surrogate, of the plane 0 or of any.
sub character {
    my ($all_planes) = @_;
    my $code = $all_planes ? 0x10000 + int(rand 0x100000) : 0xa1 + int(rand 0xff00);
    return chr($code >= 0xd800 && $code < 0xe000 ? $code - 0x1000 : $code);
}

sub escaped {
    my ($character) = @_;
    my $code = ord $character;
    my $format = rand() < 0.5 ? '\\u%04x' : '\\u%04X';
    return sprintf($format, $code) if $code < 0x10000;
    return sprintf($format . $format, 0xd800 + (($code - 0x10000) >> 10), 0xdc00 + ($code & 0x3ff));
}

# What stands between the quotes of a string. Never \u0000, which jsonb does not hold.
sub string_part {
    my $kind = int(rand 9);
    return pick(@escapes) if $kind == 0;
    return escaped(chr(1 + int(rand 31))) if $kind == 1;
    return escaped(chr(0x20 + int(rand 0xe0))) if $kind == 2;
    return escaped(character(rand() < 0.5)) if $kind == 3;
    return character(0) if $kind == 4;
    return character(1) if $kind == 5;
    return pick(@awkward) if $kind == 6;
    return pick('{', '}', '[', ']', ':', ',', ' ', '  ', '.', '%', '<', '&', q{'});
}

sub string {
    my ($size) = @_;
    my ($text, $bytes) = ('', 0);

    while ($bytes < $size) {
        my $part = string_part();
        utf8::encode($part);
        # Long ones repeat themselves, or they would take long to make.
        $part = $text x (1 + int(rand 4)) if $bytes > 3000 && $bytes + 5 * length($text) < $size;
        $text .= $part;
        $bytes += length($part);
    }
    return qq("$text");
}

# Exact ones are those that a double holds, as every reader of JSON has it.
sub number {
    my ($exact) = @_;
    my $digits = sub { return join('', map { int(rand 10) } 1 .. $_[0]) };
    my $sign = rand() < 0.3 ? '-' : '';

    return $sign . pick(0, '0.0', 1, '1e3', '0.1', '2.50', '1E-7', 9007199254740991, 123456789012345, '12345.678901') if $exact;
    return $sign . pick(
        '1' . $digits->(15 + rand 60),
        9007199254740992 + int(rand 1000),
        '18446744073709551616',
        '0.' . $digits->(1 + rand 60),
        int(rand 1e9) . '.' . $digits->(1 + rand 40) . pick('', '000'),
        '1.' . $digits->(1 + rand 20) . pick('e', 'E') . pick('', '+', '-') . int(rand 200));
}

sub blank { return rand() < 0.8 ? '' : pick(' ', '  ', "\n", "\t", "\r\n") }

sub key {
    return string(rand 20) if rand() < 0.5;
    return '"' . pick(@keys) . '"';
}

# A JSON text of about that many bytes, of one byte for 1; with exact, only with numbers that a double holds.
sub random_json {
    my ($size, $exact) = @_;
    my $room = $size;
    my @members;

    return int(rand 10) if $size <= 1;
    return pick('true', 'false', 'null', '{}', '[]', '""', number($exact), number($exact)) if $size < 12;
    return string($size - 2) if rand() < 0.25;
    my $object = rand() < 0.6;
    while ($room > 0) {
        my $value = random_json(rand() < 0.3 ? $room : rand($room < 200 ? $room : 200), $exact);
        push @members, ($object ? key() . blank() . ':' . blank() : '') . $value;
        $room -= length($members[-1]) + 1;
    }
    my $text = blank() . join(blank() . ',' . blank(), @members) . blank();
    return $object ? "{$text}" : "[$text]";
}

# A JSON text in which one thing is in the other, that many times.
sub random_nested {
    my ($depth) = @_;
    my ($before, $behind) = ('', '');

    for (1 .. $depth) {
        my $object = rand() < 0.5;
        $before .= $object ? '{' . key() . ':' : '[';
        $behind = ($object ? '}' : ']') . $behind;
    }
    return $before . random_json(30, 1) . $behind;
}

# A text (not JSON) of up to so many characters that PostgreSQL holds.
sub random_text {
    my ($length) = @_;
    my $text = join('', map { pick(character(0), character(1), pick(@awkward), chr(1 + int(rand 127))) } 1 .. rand $length);
    utf8::encode($text);
    return $text;
}

1;
