/*
 * Unit tests of the address policy: the block list by examples of each range's ends, the allow list's text form.
 *
 * A plain program of one process.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/un.h>

#include "address.h"
#include "unit.h"

static struct sockaddr_storage
address_of(const char *text)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr_in *ipv4 = (struct sockaddr_in *)&storage;
    struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)&storage;

    if (inet_pton(AF_INET, text, &ipv4->sin_addr) == 1) {
        ipv4->sin_family = AF_INET;
        ipv4->sin_port = htons(443);
    } else if (CHECK(inet_pton(AF_INET6, text, &ipv6->sin6_addr) == 1)) {
        ipv6->sin6_family = AF_INET6;
        ipv6->sin6_port = htons(443);
    }
    return storage;
}

static const char *
blocked_by(const AddressPolicy *policy, const char *text)
{
    struct sockaddr_storage storage = address_of(text);

    return address_blocked(policy, (struct sockaddr *)&storage);
}

static AddressPolicy
policy_of(const char *text)
{
    AddressPolicy policy = {0};
    char error[128] = "";

    if (!CHECK(address_list_parse(text, &policy.allowed, error, sizeof error)))
        printf("    %s\n", error);
    return policy;
}

static void
test_block_list(void)
{
    static const char *const blocked[] = {
        "0.0.0.0",
        "0.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.127.255.255",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.0",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.7",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.0",
        "255.255.255.254",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:10.1.2.3",
        "::ffff:169.254.169.254",
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "64:ff9b:1:ffff::8.8.8.8",
        "64:ff9b:0:1::8.8.8.8",
        "100::1",
        "100:0:0:1::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:1ff:ffff::1",
        "2001:db8::1",
        "2001:db8:ffff::1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::1",
        "2002:c0a8:101::",
        "3fff::1",
        "3fff:fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fdff::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "fe00::1",
        "ff02::1",
        "ffff::1",
        "1000::1",
    };
    static const char *const open[] = {
        "1.0.0.0",          "8.8.8.8",          "9.255.255.255",
        "11.0.0.0",         "100.63.255.255",   "100.128.0.0",
        "126.255.255.255",  "128.0.0.0",        "168.63.129.15",
        "168.63.129.17",    "169.253.255.255",  "169.255.0.0",
        "172.15.255.255",   "172.32.0.0",       "192.0.1.0",
        "192.0.3.0",        "192.167.255.255",  "192.169.0.0",
        "198.17.255.255",   "198.20.0.0",       "223.255.255.255",
        "::ffff:8.8.8.8",   "64:ff9b::8.8.8.8", "2002:808:808::1",
        "2000::1",          "2001:200::1",      "2001:4860:4860::8888",
        "2001:db7:ffff::1", "2001:db9::1",      "2606:4700::1111",
        "3fff:1000::1",     "3ffe::1",
    };
    const AddressPolicy policy = {0};

    for (size_t i = 0; i < sizeof blocked / sizeof *blocked; i++)
        if (!CHECK(blocked_by(&policy, blocked[i]) != NULL))
            printf("    %s\n", blocked[i]);
    for (size_t i = 0; i < sizeof open / sizeof *open; i++)
        if (!CHECK(blocked_by(&policy, open[i]) == NULL))
            printf("    %s\n", open[i]);
    CHECK_STR(blocked_by(&policy, "169.254.169.254"), "a link-local address");
    CHECK_STR(blocked_by(&policy, "::ffff:127.0.0.1"), "a loopback address");
    CHECK_STR(blocked_by(&policy, "255.255.255.255"), "the broadcast address");
    CHECK_STR(blocked_by(&policy, "4000::"), "not a global unicast address");
    CHECK_STR(address_blocked(&policy, (struct sockaddr *)&(struct sockaddr_un){.sun_family = AF_UNIX}),
              "neither IPv4 nor IPv6");
}

static void
test_allow_list(void)
{
    AddressPolicy policy = policy_of("127.0.0.0/8, ::1/128, 10.1.2.3");

    CHECK(blocked_by(&policy, "127.0.0.1") == NULL && blocked_by(&policy, "127.255.0.1") == NULL);
    CHECK(blocked_by(&policy, "::1") == NULL && blocked_by(&policy, "10.1.2.3") == NULL);
    CHECK(blocked_by(&policy, "10.1.2.4") != NULL && blocked_by(&policy, "::2") != NULL);
    CHECK(blocked_by(&policy, "::ffff:127.0.0.1") == NULL && blocked_by(&policy, "64:ff9b::10.1.2.3") == NULL);
    CHECK(blocked_by(&policy, "8.8.8.8") == NULL);
    policy = policy_of("10.1.2.3/31\t,\n172.16.5.6/13");
    CHECK(blocked_by(&policy, "10.1.2.2") == NULL && blocked_by(&policy, "10.1.2.4") != NULL);
    CHECK(blocked_by(&policy, "172.23.255.255") == NULL && blocked_by(&policy, "172.24.0.0") != NULL);
    policy = policy_of("0.0.0.0/0");
    CHECK(blocked_by(&policy, "127.0.0.1") == NULL && blocked_by(&policy, "::1") != NULL);
    policy = policy_of("::/0");
    CHECK(blocked_by(&policy, "::1") == NULL && blocked_by(&policy, "127.0.0.1") != NULL);
    policy = policy_of("::ffff:10.0.0.0/104");
    CHECK(blocked_by(&policy, "10.200.1.1") == NULL && blocked_by(&policy, "::ffff:10.1.1.1") == NULL);
    CHECK(blocked_by(&policy, "11.1.1.1") == NULL && blocked_by(&policy, "127.0.0.1") != NULL);
    policy = policy_of("fd12:3456::/33");
    CHECK(blocked_by(&policy, "fd12:3456:7fff::1") == NULL && blocked_by(&policy, "fd12:3456:8000::1") != NULL);
    policy = policy_of("  ");
    CHECK(policy.allowed.count == 0 && blocked_by(&policy, "127.0.0.1") != NULL);
}

static void
test_bad_lists(void)
{
    static const struct {
        const char *text;
        const char *error;
    } cases[] = {
        {",", "expected an IPv4 or IPv6 address at character 1"},
        {"10.0.0.1,", "expected an IPv4 or IPv6 address at character 10"},
        {"10.0.0.1, ,::1", "expected an IPv4 or IPv6 address at character 11"},
        {"localhost", "expected an IPv4 or IPv6 address at character 1"},
        {" 10.0.0", "expected an IPv4 or IPv6 address at character 2"},
        {"010.0.0.1", "expected an IPv4 or IPv6 address at character 1"},
        {"10.0.0.256", "expected an IPv4 or IPv6 address at character 1"},
        {"10.0.0.1:80", "expected an IPv4 or IPv6 address at character 1"},
        {"[::1]", "expected an IPv4 or IPv6 address at character 1"},
        {"fe80::1%eth0", "expected an IPv4 or IPv6 address at character 1"},
        {"/8", "expected an IPv4 or IPv6 address at character 1"},
        {"10.0.0.0/33", "expected a prefix length from 0 to 32 after the address at character 1"},
        {"::1, 10.0.0.0/", "expected a prefix length from 0 to 32 after the address at character 6"},
        {"10.0.0.0/-1", "expected a prefix length from 0 to 32 after the address at character 1"},
        {"10.0.0.0/8/8", "expected a prefix length from 0 to 32 after the address at character 1"},
        {"10.0.0.0/255.0.0.0", "expected a prefix length from 0 to 32 after the address at character 1"},
        {"::/129", "expected a prefix length from 0 to 128 after the address at character 1"},
        {"::/1000", "expected a prefix length from 0 to 128 after the address at character 1"},
        {"10.0.0.1 10.0.0.2", "expected a comma or the end at character 10"},
        {"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc",
         "expected an IPv4 or IPv6 address at character 1"},
    };
    AddressList list;
    char text[ADDRESS_LIST_MAX * 6 + 16] = "";
    char error[128];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        list.count = 9;
        *error = '\0';
        CHECK(!address_list_parse(cases[i].text, &list, error, sizeof error));
        CHECK_STR(error, cases[i].error);
        CHECK(list.count == 0);
    }
    for (int i = 0; i < ADDRESS_LIST_MAX; i++)
        strcat(text, i == 0 ? "::1" : ",::1");
    CHECK(address_list_parse(text, &list, error, sizeof error) && list.count == ADDRESS_LIST_MAX);
    strcat(text, ",::1");
    CHECK(!address_list_parse(text, &list, error, sizeof error) && list.count == 0);
    CHECK_STR(error, "expected no more than 64 addresses at character 257");
}

static void
test_format(void)
{
    static const char *const texts[][2] = {
        {"192.0.2.1", "192.0.2.1:443"},
        {"::1", "[::1]:443"},
        {"1111:2222:3333:4444:5555:6666:7777:8888", "[1111:2222:3333:4444:5555:6666:7777:8888]:443"},
    };
    char text[ADDRESS_TEXT_SIZE];

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct sockaddr_storage storage = address_of(texts[i][0]);

        address_format((struct sockaddr *)&storage, text);
        CHECK_STR(text, texts[i][1]);
    }
    address_format((struct sockaddr *)&(struct sockaddr_un){.sun_family = AF_UNIX}, text);
    CHECK_STR(text, "?");
}

int
main(void)
{
    test_block_list();
    test_allow_list();
    test_bad_lists();
    test_format();
    return unit_report();
}
