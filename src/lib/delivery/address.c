/*
 * The block list of addresses, the allow list's text form, and the check. Runs in the process that delivers, for each
 * new connection, and in those that check settings. Owns no memory.
 *
 * Source of the ranges: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190).
 */
#include "address.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <arpa/inet.h>
#include <netinet/in.h>

/* The longest text of one range that is looked at: an address, "/128". */
#define RANGE_TEXT_SIZE (INET6_ADDRSTRLEN + 8)

typedef struct Special {
    unsigned char bytes[16];
    int prefix;
    const char *name;
} Special;

static const Special special_ipv4[] = {
    {{0, 0, 0, 0}, 8, "an unspecified address"},         {{10, 0, 0, 0}, 8, "a private address"},
    {{100, 64, 0, 0}, 10, "a carrier's shared address"}, {{127, 0, 0, 0}, 8, "a loopback address"},
    {{168, 63, 129, 16}, 32, "a cloud's own service"}, /* Azure's; public by number, reached from within only */
    {{169, 254, 0, 0}, 16, "a link-local address"},    /* 169.254.169.254 and other metadata services */
    {{172, 16, 0, 0}, 12, "a private address"},          {{192, 0, 0, 0}, 24, "an address of protocol assignments"},
    {{192, 0, 2, 0}, 24, "a documentation address"},     {{192, 88, 99, 0}, 24, "a 6to4 relay"},
    {{192, 168, 0, 0}, 16, "a private address"},         {{198, 18, 0, 0}, 15, "a benchmarking address"},
    {{198, 51, 100, 0}, 24, "a documentation address"},  {{203, 0, 113, 0}, 24, "a documentation address"},
    {{224, 0, 0, 0}, 4, "a multicast address"},          {{255, 255, 255, 255}, 32, "the broadcast address"},
    {{240, 0, 0, 0}, 4, "a reserved address"},
};

/* In this order; what matches nothing here is looked at as global unicast or not. */
static const Special special_ipv6[] = {
    {{0}, 128, "the unspecified address"},
    {{[15] = 1}, 128, "the loopback address"},
    {{0}, 96, "an IPv4-compatible address"},
    {{0, 0x64, 0xff, 0x9b, 0, 1}, 48, "a local NAT64 address"},
    {{0x01}, 64, "a discard-only address"},
    {{0x20, 0x01, 0, 0}, 32, "a Teredo address"},
    {{0x20, 0x01, 0}, 23, "an address of protocol assignments"},
    {{0x20, 0x01, 0x0d, 0xb8}, 32, "a documentation address"},
    {{0x3f, 0xff, 0}, 20, "a documentation address"},
    {{0x5f, 0x00}, 16, "a segment routing address"},
    {{0xfc}, 7, "a private address"},
    {{0xfe, 0x80}, 10, "a link-local address"},
    {{0xfe, 0xc0}, 10, "a site-local address"},
    {{0xff}, 8, "a multicast address"},
};

/* An address in network order. */
typedef struct Address {
    bool is_ipv4;
    unsigned char bytes[16];
} Address;

/* ---- Bits ---- */

static bool
same_prefix(const unsigned char *a, const unsigned char *b, int bits)
{
    int rest = bits % 8;

    if (memcmp(a, b, (size_t)bits / 8) != 0)
        return false;
    return rest == 0 || ((a[bits / 8] ^ b[bits / 8]) & (0xff << (8 - rest) & 0xff)) == 0;
}

static void
clear_after_prefix(unsigned char *bytes, int size, int bits)
{
    for (int i = 0; i < size; i++) {
        int kept = bits - 8 * i;

        if (kept < 8)
            bytes[i] &= kept <= 0 ? 0 : (unsigned char)(0xff << (8 - kept));
    }
}

static const unsigned char mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};

/* ---- The allow list ---- */

/* Parses one range of the given length; NULL, or what was expected. */
static const char *
parse_range(const char *start, size_t length, AddressRange *range)
{
    char text[RANGE_TEXT_SIZE];
    char *slash;
    size_t digits;
    int limit;

    if (length == 0 || length >= sizeof text)
        return "expected an IPv4 or IPv6 address";
    memcpy(text, start, length);
    text[length] = '\0';
    slash = strchr(text, '/');
    if (slash != NULL)
        *slash = '\0';
    *range = (AddressRange){0};
    range->is_ipv4 = inet_pton(AF_INET, text, range->bytes) == 1;
    if (!range->is_ipv4 && inet_pton(AF_INET6, text, range->bytes) != 1)
        return "expected an IPv4 or IPv6 address";
    limit = range->is_ipv4 ? 32 : 128;
    range->prefix = limit;
    if (slash != NULL) {
        digits = strspn(slash + 1, "0123456789");
        if (digits == 0 || digits > 3 || slash[1 + digits] != '\0' || atoi(slash + 1) > limit)
            return range->is_ipv4 ? "expected a prefix length from 0 to 32 after the address"
                                  : "expected a prefix length from 0 to 128 after the address";
        range->prefix = atoi(slash + 1);
    }
    if (!range->is_ipv4 && range->prefix >= 96 && memcmp(range->bytes, mapped_prefix, sizeof mapped_prefix) == 0) {
        memmove(range->bytes, range->bytes + 12, 4);
        memset(range->bytes + 4, 0, 12);
        range->is_ipv4 = true;
        range->prefix -= 96;
    }
    clear_after_prefix(range->bytes, sizeof range->bytes, range->prefix);
    return NULL;
}

bool
address_list_parse(const char *text, AddressList *list, char *error, size_t size)
{
    static const char blanks[] = " \t\r\n";
    const char *c = text + strspn(text, blanks);
    const char *wrong = NULL;

    list->count = 0;
    if (*c == '\0')
        return true;
    for (;;) {
        size_t length = strcspn(c, ", \t\r\n");

        if (list->count == ADDRESS_LIST_MAX)
            wrong = "expected no more than 64 addresses";
        else
            wrong = parse_range(c, length, &list->ranges[list->count]);
        if (wrong != NULL)
            break;
        list->count++;
        c += length;
        c += strspn(c, blanks);
        if (*c == '\0')
            return true;
        if (*c != ',') {
            wrong = "expected a comma or the end";
            break;
        }
        c++;
        c += strspn(c, blanks);
    }
    list->count = 0;
    snprintf(error, size, "%s at character %zu", wrong, (size_t)(c - text) + 1);
    return false;
}

static bool
list_contains(const AddressList *list, const Address *address)
{
    for (int i = 0; i < list->count; i++)
        if (list->ranges[i].is_ipv4 == address->is_ipv4 &&
            same_prefix(list->ranges[i].bytes, address->bytes, list->ranges[i].prefix))
            return true;
    return false;
}

/* ---- The block list ---- */

static const char *
find_special(const Special *table, size_t count, const Address *address)
{
    for (size_t i = 0; i < count; i++)
        if (same_prefix(table[i].bytes, address->bytes, table[i].prefix))
            return table[i].name;
    return NULL;
}

/* The IPv4 address that packets to this IPv6 address get to in the end. False: there is none. */
static bool
embedded_ipv4(const Address *address, Address *inner)
{
    static const unsigned char nat64[12] = {0, 0x64, 0xff, 0x9b};
    static const unsigned char six_to_four[2] = {0x20, 0x02};

    *inner = (Address){.is_ipv4 = true};
    if (memcmp(address->bytes, mapped_prefix, 12) == 0 || memcmp(address->bytes, nat64, 12) == 0)
        memcpy(inner->bytes, address->bytes + 12, 4);
    else if (memcmp(address->bytes, six_to_four, 2) == 0)
        memcpy(inner->bytes, address->bytes + 2, 4);
    else
        return false;
    return true;
}

/* What the block list calls an address; NULL: nothing. */
static const char *
judge(const Address *address)
{
    const char *name;

    if (address->is_ipv4)
        return find_special(special_ipv4, sizeof special_ipv4 / sizeof *special_ipv4, address);
    name = find_special(special_ipv6, sizeof special_ipv6 / sizeof *special_ipv6, address);
    if (name == NULL && (address->bytes[0] & 0xe0) != 0x20)
        name = "not a global unicast address"; /* outside of 2000::/3 (RFC 4291 section 2.4) */
    return name;
}

static bool
read_address(const struct sockaddr *from, Address *address)
{
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;

    *address = (Address){0};
    if (from->sa_family == AF_INET) {
        memcpy(&ipv4, from, sizeof ipv4);
        memcpy(address->bytes, &ipv4.sin_addr, 4);
        address->is_ipv4 = true;
    } else if (from->sa_family == AF_INET6) {
        memcpy(&ipv6, from, sizeof ipv6);
        memcpy(address->bytes, &ipv6.sin6_addr, 16);
    } else {
        return false;
    }
    return true;
}

const char *
address_blocked(const AddressPolicy *policy, const struct sockaddr *address)
{
    Address outer;
    Address inner;

    if (!read_address(address, &outer))
        return "neither IPv4 nor IPv6";
    if (list_contains(&policy->allowed, &outer))
        return NULL;
    if (outer.is_ipv4 || !embedded_ipv4(&outer, &inner))
        return judge(&outer);
    return list_contains(&policy->allowed, &inner) ? NULL : judge(&inner);
}

void
address_format(const struct sockaddr *address, char text[ADDRESS_TEXT_SIZE])
{
    char number[INET6_ADDRSTRLEN] = "";
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;

    if (address->sa_family == AF_INET) {
        memcpy(&ipv4, address, sizeof ipv4);
        inet_ntop(AF_INET, &ipv4.sin_addr, number, sizeof number);
        snprintf(text, ADDRESS_TEXT_SIZE, "%s:%u", number, (unsigned)ntohs(ipv4.sin_port));
    } else if (address->sa_family == AF_INET6) {
        memcpy(&ipv6, address, sizeof ipv6);
        inet_ntop(AF_INET6, &ipv6.sin6_addr, number, sizeof number);
        snprintf(text, ADDRESS_TEXT_SIZE, "[%s]:%u", number, (unsigned)ntohs(ipv6.sin6_port));
    } else {
        snprintf(text, ADDRESS_TEXT_SIZE, "?");
    }
}

static void
allow_range(AddressPolicy *policy, const AddressRange *range)
{
    if (policy->allowed.count < ADDRESS_LIST_MAX)
        policy->allowed.ranges[policy->allowed.count++] = *range;
}

void
address_policy_allow_host(AddressPolicy *policy, const char *host)
{
    static const char *const meant[] = {"a loopback address", "the loopback address", "a private address"};
    static const AddressRange loopback[] = {{true, {127}, 8}, {false, {[15] = 1}, 128}};
    size_t length = strlen(host);
    AddressRange range;
    Address address;
    const char *name;

    if (strcasecmp(host, "localhost") == 0) {
        allow_range(policy, &loopback[0]);
        allow_range(policy, &loopback[1]);
        return;
    }
    if (length > 2 && host[0] == '[' && host[length - 1] == ']') {
        host++;
        length -= 2;
    }
    if (parse_range(host, length, &range) != NULL || range.prefix != (range.is_ipv4 ? 32 : 128))
        return;
    address.is_ipv4 = range.is_ipv4;
    memcpy(address.bytes, range.bytes, sizeof address.bytes);
    name = judge(&address);
    for (size_t i = 0; name != NULL && i < sizeof meant / sizeof *meant; i++)
        if (strcmp(name, meant[i]) == 0)
            allow_range(policy, &range);
}
