/*
 * Which network addresses deliveries may go to. A webhook's URL is somebody's input; without a check it would let its
 * author reach the database server's own network and the cloud's metadata service (SSRF). The check is made on the
 * address that a socket is about to be connected to, so that neither a name that resolves to something else the second
 * time (DNS rebinding) nor an unusual spelling gets around it.
 *
 * Pure computation, fit for a settings check in any process; no memory is kept.
 */
#ifndef APAPACHO_DELIVERY_ADDRESS_H
#define APAPACHO_DELIVERY_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

#include <sys/socket.h>

#define ADDRESS_LIST_MAX 64

/* Room for the text of any address with its port: "[…]:65535" around the longest IPv6 address. */
#define ADDRESS_TEXT_SIZE 64

/* All addresses whose first prefix bits are those of bytes; bits after them are zero. */
typedef struct AddressRange {
    bool is_ipv4;
    unsigned char bytes[16]; /* network order; an IPv4 address is in the first four */
    int prefix;              /* 0 … 32 or 128 */
} AddressRange;

typedef struct AddressList {
    int count;
    AddressRange ranges[ADDRESS_LIST_MAX];
} AddressList;

/* What is allowed although the built-in block list has it. All zero: nothing is. */
typedef struct AddressPolicy {
    AddressList allowed;
} AddressPolicy;

/*
 * Parses a list such as "127.0.0.0/8, ::1/128, 10.1.2.3": IPv4 and IPv6 addresses, each with or without a prefix
 * length, separated by commas, with blanks around; bits after the prefix are ignored. An empty text is an empty list.
 * An IPv4-mapped range (::ffff:10.0.0.0/104) is the IPv4 range; 0.0.0.0/0 and ::/0 allow all of their own family only.
 * False with one line in error, which says what was expected and at which character (from 1), and *list empty.
 */
bool address_list_parse(const char *text, AddressList *list, char *error, size_t size);

/*
 * NULL: a connection to this address is allowed. Otherwise what the address is, e.g. "a private address", for "… is not
 * allowed: it is …". Blocked is what the IANA special-purpose address registries do not call globally reachable, and
 * the addresses at which clouds serve metadata; of IPv6 everything but global unicast. IPv4 addresses within IPv6 ones
 * (mapped, NAT64, 6to4) are judged as what they are, by block list and allow list alike. Only IPv4 and IPv6 are ever
 * allowed.
 */
const char *address_blocked(const AddressPolicy *policy, const struct sockaddr *address);

/* The text "192.0.2.1:80" or "[2001:db8::1]:80"; of another family: "?". */
void address_format(const struct sockaddr *address, char text[ADDRESS_TEXT_SIZE]);

/*
 * Adds to the policy what the host of a URL names outright, since whoever has written it meant it: a loopback or
 * private address in figures, or the loopback addresses for "localhost". A name that is looked up adds nothing; nor
 * does a link-local address, where clouds have their metadata. Nothing is added when the list is full.
 */
void address_policy_allow_host(AddressPolicy *policy, const char *host);

#endif
